"""README and docs: every block of code runs, every link leads somewhere, every statement holds."""

import ast
import configparser
import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

import keras_gated
from keras_gated.cells.arguments import Configurable, argument_names

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("**/*.md"))]
OTHERS = [ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "RELEASING", "SECURITY")]
FENCE = re.compile(r"(<!-- slow: [^>]*-->\n)?^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """Yields the Python blocks of the pages; `<!-- slow: why -->` above one makes it slow."""
    for page in PAGES:
        found = [match.groups() for match in FENCE.finditer(page.read_text())]
        code = [(slow, text) for slow, language, text in found if language == "python"]
        for number, (slow, text) in enumerate(code, 1):
            marks = [pytest.mark.slow] if slow else []
            name = f"{page.relative_to(ROOT)}-{number}"
            yield pytest.param(text, name, id=name, marks=marks)


@pytest.mark.sampled
@pytest.mark.parametrize("block, name", list(blocks()))
def test_each_python_block_runs_when_it_is_copied_alone(block, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, name, "exec"), {})


def test_every_block_says_its_language_and_no_other_than_python_is_left_unrun():
    for page in [*PAGES, *OTHERS]:
        languages = {language for _, language, _ in FENCE.findall(page.read_text())}
        assert languages <= {"python", "console", "text"}, page
        fences = re.findall(r"^```", page.read_text(), re.MULTILINE)
        assert len(fences) == 2 * len(FENCE.findall(page.read_text())), page


def anchors(page):
    """Returns what `#...` may lead to: headings, and the names of the API reference."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\s-]", "", h).strip().lower().replace(" ", "-") for h in headings}
    return slugs | set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


def repository():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config["metadata"]["url"]


def links(page):
    """Returns the links of a page within the repository: paths and anchors."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    given = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    raw = repository().replace("github.com", "raw.githubusercontent.com")
    found = []
    for link in given:
        target, _, anchor = link.partition("#")
        for prefix in (f"{repository()}/blob/main/", f"{repository()}/tree/main/", f"{raw}/main/"):
            if target.startswith(prefix):
                found.append((ROOT / target.removeprefix(prefix), anchor))
        if "://" not in target:
            found.append(((page.parent / target) if target else page, anchor))
    return found


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page):
    for path, anchor in links(page):
        assert path.exists(), path
        assert not anchor or anchor in anchors(path), f"{path}#{anchor}"


def test_the_readme_has_no_relative_links_since_it_is_shown_on_pypi():
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert len(targets) > 20 and all(target.startswith("https://") for target in targets)
    assert len(text.splitlines()) <= 130


def test_the_url_of_the_project_is_the_same_everywhere():
    owner = re.compile(r"https://(?:raw\.githubusercontent|github)\.com/([\w-]+/keras_gated)\b")
    files = [ROOT / "README.md", ROOT / "setup.cfg", ROOT / "mkdocs.yml", ROOT / "CITATION.cff"]
    for file in [*files, *OTHERS, *PAGES]:
        for found in owner.findall(file.read_text()):
            assert repository().endswith(found), file


def pages_of(nav):
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_of(part)]


def test_every_page_is_in_the_navigation_once():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    expected = [str(page.relative_to(DOCS)) for page in DOCS.glob("**/*.md")]
    assert sorted(pages_of(config["nav"])) == sorted(expected)


def test_every_public_name_is_in_the_api_reference_once():
    text = "".join(page.read_text() for page in DOCS.glob("api/*.md"))
    names = re.findall(r"^::: keras_gated\.(\w+)$", text, re.MULTILINE)
    assert sorted(names) == sorted(keras_gated.__all__)


def imports():
    """Returns the packages of keras_gated, each with those that its modules import from."""
    found = {}
    for path in (ROOT / "keras_gated").rglob("*.py"):
        parts = path.relative_to(ROOT / "keras_gated").with_suffix("").parts
        if parts == ("__init__",):
            continue
        used = found.setdefault(parts[0], set())
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            used |= {name.split(".")[1] for name in names if name.startswith("keras_gated.")}
    return {package: used - {package} for package, used in found.items()}


def table_of_packages():
    """Returns the rows of the table of docs/design.md: each package, and what it may import."""
    text = (DOCS / "design.md").read_text()
    _, table = text.split("| package | what it holds | imports from |\n")
    rows = {}
    for line in table.partition("\n\n")[0].splitlines()[1:]:
        package, _, allowed = line.strip("|").split("|")
        rows[package.strip(" `")] = set(re.findall(r"`(\w+)`", allowed))
    return rows


def test_packages_import_what_the_design_page_says():
    assert imports() == table_of_packages()


def test_a_package_imports_only_from_those_above_it():
    above = set()
    for package, allowed in table_of_packages().items():
        assert allowed <= above, package
        above.add(package)


def test_files_that_the_design_page_names_exist():
    names = re.findall(r"`((?:\w+/)+\w+\.py)`", (DOCS / "design.md").read_text())
    names += re.findall(r"(tests/test_\w+\.py)", "".join(page.read_text() for page in PAGES))
    assert len(names) > 20
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "keras_gated" / name).exists(), name


def messages():
    """Returns the texts in the code of the package, with `...` for what is put into them."""
    found = []
    for path in (ROOT / "keras_gated").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "..." for v in node.values]
                found.append("".join(parts))
    return found


def test_the_messages_that_the_troubleshooting_page_quotes_are_in_the_code():
    text = (DOCS / "troubleshooting.md").read_text()
    quotes = [body.strip() for _, language, body in FENCE.findall(text) if language == "text"]
    said = messages()
    assert len(quotes) > 20
    for quote in quotes:
        assert any(quote.removesuffix("...").strip() in message for message in said), quote


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not importlib.util.find_spec("mkdocs"):
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing_from_the_network(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?([^\s\">]+)", text)
        fetched += re.findall(r"<link[^>]*rel=\"?stylesheet[^>]*href=\"?([^\s\">]+)", text)
        assert fetched and not [link for link in fetched if "//" in link], page


@pytest.mark.slow
def test_the_reference_shows_every_argument_of_every_class_and_function(site):
    pages = "".join(page.read_text() for page in site.glob("api/*.html"))
    for name in keras_gated.__all__:
        start = pages.index(f'id="keras_gated.{name}"')
        shown = re.sub(r"<[^>]+>", "", pages[start : pages.find('<h2 id="keras_gated', start + 1)])
        public = getattr(keras_gated, name)
        expected = {"layer", "merge_mode", "weights", "backward_layer"}  # of Keras's Bidirectional
        if issubclass(type(public), type) and issubclass(public, Configurable):
            expected = argument_names(public)
        elif name != "Bidirectional":
            expected = inspect.signature(public).parameters
        for argument in expected:
            assert re.search(rf"\b{argument}\b", shown), f"{name}: {argument}"


@pytest.mark.slow
def test_the_search_works_from_disk(site, browser):
    browser.get((site / "index.html").as_uri())
    field = browser.find_element("css selector", ".md-search__input")
    field.click()
    field.send_keys("peephole")
    browser.implicitly_wait(20)
    found = browser.find_elements("css selector", ".md-search-result__item")
    browser.implicitly_wait(0)
    assert any("Cells" in item.text or "Peephole" in item.text for item in found)
    problems = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert problems == []
