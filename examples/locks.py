"""Keeps two programs of one machine from writing into the same folder."""

import os

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_HELD = {}  # The locks of this program, by folder.


def lock(folder):
    """Locks a folder until it is released or this program ends, however that ends.

    Args:
        folder: The path of a folder that exists.

    Returns:
        False if another program holds the lock. True if this program holds it now, or if the file
        system has no locks.
    """
    path = os.path.realpath(folder)
    if fcntl is None or path in _HELD:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:  # the file system has no locks
        return True
    _HELD[path] = descriptor
    return True


def release(folder):
    """Ends the lock of this program, if it holds one."""
    descriptor = _HELD.pop(os.path.realpath(folder), None)
    if descriptor is not None:
        os.close(descriptor)
