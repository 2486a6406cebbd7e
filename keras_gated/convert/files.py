"""Files that are written whole or not at all, and read if they fit into memory."""

import contextlib
import glob
import os
import pathlib
import time
import uuid

_UNPACKED = 2**26, 100  # a file may unpack to so many bytes, or to so many times its own size
_OLD = 3600  # seconds after which an unfinished file counts as abandoned


def target(path, owner):
    """Returns the path of a file to write, checked before the work for the file begins.

    Raises:
        ValueError: If `path` is not a path, is a folder, a device or a pipe, or lies in a folder
            that does not exist or may not be written; the message names it.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(
            f"{owner}: `path` must be the path of the file to write. Received: {path!r} (of type "
            f"{type(path).__name__})."
        )
    path = pathlib.Path(os.path.realpath(path))  # what a link points to
    if path.is_dir():
        raise ValueError(
            f"{owner}: `path` must be a file. Received: {str(path)!r}, a folder. Add a file name."
        )
    if path.exists() and not path.is_file():
        raise ValueError(
            f"{owner}: `path` must be a file, which is replaced. Received: {str(path)!r}, a device "
            "or a pipe. Write a file, and copy it there."
        )
    if not path.parent.is_dir():
        raise ValueError(
            f"{owner}: the folder of `path` must exist. Received: {str(path)!r}. Create "
            f"{str(path.parent)!r} first."
        )
    if not os.access(path.parent, os.W_OK):
        raise ValueError(
            f"{owner}: the folder of `path` must be one that you may write. Received: "
            f"{str(path)!r}. Choose another folder."
        )
    return path


def check_unpacked(unpacked, size):
    """Raises if a file would fill the memory when unpacked. Weights hardly compress.

    Args:
        unpacked: The bytes of all its contents, unpacked.
        size: The bytes of the file.
    """
    least, times = _UNPACKED
    if unpacked > max(least, times * size):
        raise ValueError(f"it would unpack to {unpacked} bytes from {size}.")


def write_whole(path, content):
    """Writes a file beside its target and renames it: a reader sees the old file or the new one.

    Whatever stops the writing (a full disk, Ctrl-C), the old file stays as it was, and nothing
    else is left. A process that is killed in between cannot tidy up; a later write does.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _OLD:
                left.unlink()
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a full disk may be reported only now
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
