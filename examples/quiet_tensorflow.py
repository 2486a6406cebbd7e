"""Imports TensorFlow without the lines that it prints at its start. Scripts import this first.

TF_CPP_MIN_LOG_LEVEL=0 in the environment shows these lines.
"""

import contextlib
import os


@contextlib.contextmanager
def errors_unread():
    """Drops all output to the process's standard error inside a `with`, also that of C++."""
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)


# Python raises an exception if something fails, so the log need not report it, too.
if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
    import tensorflow
else:
    with errors_unread():  # some lines are written before TensorFlow knows the level
        import tensorflow  # noqa: F401
