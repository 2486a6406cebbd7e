"""Sets a context variable inside a `with` block. Each thread has values of its own."""

import contextlib


@contextlib.contextmanager
def holding(variable, value):
    """Gives a `contextvars.ContextVar` another value inside the `with` block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
