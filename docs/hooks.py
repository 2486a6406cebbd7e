"""Links of the pages to files of the repository, which the site does not hold.

The pages are Markdown that GitHub shows, too. So they link to pictures and source code by their
paths in the repository. On the site a picture is copied to `pictures/`, and a link to code leads
to `extra.repository`.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)\s#]+)([^)]*\))")


def on_files(files, config):
    root = pathlib.Path(config.config_file_path).parent
    for picture in sorted(root.glob("examples/*.png")):
        name = f"pictures/{picture.name}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def replaced(match):
        before, target, after = match.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if path.startswith("docs/"):
            return match[0]
        if path.startswith("examples/") and path.endswith(".png"):
            path = posixpath.join("docs/pictures", posixpath.basename(path))
            return before + posixpath.relpath(path, folder) + after
        if path == "CHANGELOG.md":
            return before + posixpath.relpath("docs/changelog.md", folder) + after
        kind = "blob" if "." in posixpath.basename(path) else "tree"
        return f"{before}{config.extra['repository']}/{kind}/main/{path}{after}"

    return LINK.sub(replaced, markdown)
