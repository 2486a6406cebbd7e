"""The one hook between a cell's equations and the loops that run them: `product`."""

import contextvars

from keras import ops

from keras_gated.cells.context import holding

_MULTIPLY = contextvars.ContextVar("keras_gated_multiply", default=ops.matmul)
_KEEP = contextvars.ContextVar("keras_gated_keep", default=None)


def product(vectors, matrix, recurrent=True):
    """Returns `vectors @ matrix`, a product of a step with one of its weights.

    A cell's `step` multiplies by its weights with this function. So the loops know the products of
    a step. They compute the derivative with respect to a matrix for all steps at once, and apply
    recurrent dropout to the vectors. A step that multiplies in another way is correct, too, but it
    trains slower and without recurrent dropout.

    Args:
        vectors: `(batch, width)`, a state before the step, or values computed from it.
        matrix: `(width, columns)`, a whole weight from the argument `weights` of `step`, not a
            slice of it.
        recurrent: Whether `recurrent_dropout` acts on `vectors`: True for the hidden state, or for
            values computed from it unit by unit.

    Returns:
        `(batch, columns)`.
    """
    keep = _KEEP.get()
    if recurrent and keep is not None:
        if vectors.shape[-1] != keep.shape[-1]:
            raise ValueError(
                "product: recurrent dropout drops units of the hidden state, and these vectors "
                f"have another width. Received: vectors of shape {tuple(vectors.shape)}; the "
                f"hidden state has {keep.shape[-1]} units. Pass `recurrent=False` for this product."
            )
        vectors = vectors * ops.cast(keep, vectors.dtype)
    return _MULTIPLY.get()(vectors, matrix)


def products_by(multiply):
    """Makes `product` call `multiply(vectors, matrix)` inside the `with` block."""
    return holding(_MULTIPLY, multiply)


def dropping(keep):
    """Makes `product` drop units of the hidden state inside the `with` block.

    Args:
        keep: Dropout mask, `(batch, width)`, or None: nothing is dropped.
    """
    return holding(_KEEP, keep)


def number_of(tensor, tensors):
    """Returns the index of a tensor (the same object) in a list, or None."""
    return next((n for n, other in enumerate(tensors) if other is tensor), None)
