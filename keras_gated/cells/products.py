"""The one hook between a cell's equations and the loops that run them: `product`."""

import contextlib
import contextvars

from keras import ops

_MULTIPLY = contextvars.ContextVar("keras_gated_multiply", default=ops.matmul)
_KEEP = contextvars.ContextVar("keras_gated_keep", default=None)


def product(vectors, matrix, recurrent=True):
    """Returns `vectors @ matrix`, a product of a step with one of its weights.

    A cell's `step` multiplies with this function, and more follows from it: recurrent dropout,
    and a loop that takes the derivative by a matrix for all steps at once. A step that multiplies
    otherwise is as right, and slower to train, and nothing is dropped in its products.

    Args:
        vectors: `(batch, width)`: a state before the step, or what is computed of it.
        matrix: `(width, columns)`: a weight as the step is given it, not a part of it.
        recurrent: Whether `vectors` is the hidden state or what is computed of it, unit by unit,
            so that `recurrent_dropout` drops some of its units.

    Returns:
        `(batch, columns)`.
    """
    keep = _KEEP.get()
    if recurrent and keep is not None:
        vectors = vectors * ops.cast(keep, vectors.dtype)
    return _MULTIPLY.get()(vectors, matrix)


@contextlib.contextmanager
def products_by(multiply):
    """Lets `product` multiply by a function of vectors and a matrix inside."""
    token = _MULTIPLY.set(multiply)
    try:
        yield
    finally:
        _MULTIPLY.reset(token)


@contextlib.contextmanager
def dropping(keep):
    """Lets `product` drop units of the hidden state inside.

    Args:
        keep: Dropout mask, `(batch, width)`, or None: nothing is dropped.
    """
    token = _KEEP.set(keep)
    try:
        yield
    finally:
        _KEEP.reset(token)
