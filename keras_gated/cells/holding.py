"""A context variable with another value inside a `with` block."""

import contextlib


@contextlib.contextmanager
def holding(variable, value):
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
