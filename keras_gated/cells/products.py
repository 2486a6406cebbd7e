"""The one hook between a cell's equations and the loops that run them: `product`."""

import contextlib
import contextvars

from keras import ops

_MULTIPLY = contextvars.ContextVar("keras_gated_multiply", default=ops.matmul)


def product(vectors, matrix):
    """Returns `vectors @ matrix`, where the matrix may be a tuple of blocks of its columns.

    A cell's `step` multiplies with its weights by this function. So a loop that trains knows the
    products, and takes the derivative by a matrix for all steps at once. A step that multiplies
    otherwise is as right, and slower to train.
    """
    if isinstance(matrix, tuple):
        return ops.concatenate([ops.matmul(vectors, block) for block in matrix], axis=-1)
    return _MULTIPLY.get()(vectors, matrix)


@contextlib.contextmanager
def products_by(multiply):
    """Lets `product` multiply by a function of vectors and a matrix inside."""
    token = _MULTIPLY.set(multiply)
    try:
        yield
    finally:
        _MULTIPLY.reset(token)
