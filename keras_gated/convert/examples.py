"""Random inputs for a model that was written in another format, and the difference of answers."""

import keras
import numpy as np
from keras import tree

from keras_gated import keras_private
from keras_gated.cells.arguments import compatible
from keras_gated.serve.difference import difference  # noqa: F401 (the converters read it here)
from keras_gated.serve.inputs import ids_below

TOLERANCE = 1e-4  # of the largest answer, and at least of 1: larger differences are refused
ANY_DTYPE = {"float64": 1e-9, "float32": TOLERANCE, "float16": 1e-2}
_FREE = 4  # the size given to an axis of unknown size other than the batch and the time


def fixed_sizes(model):
    """Returns the batch size and the number of steps that a model's inputs fix, None if free."""
    rows = [t.shape[0] for t in model.inputs if t.shape]
    steps = [t.shape[1] for t in model.inputs if len(t.shape) > 2 or _holds_ids(t)]
    return tuple(next((n for n in sizes if n is not None), None) for sizes in (rows, steps))


def _holds_ids(tensor):
    return len(tensor.shape) == 2 and not tensor.dtype.startswith(("float", "bfloat"))


def random_inputs(model, rows, steps, seed, valid=None):
    """Returns an array for every input of a functional model.

    Steps are masked at random, in each input others. The id of a masked step is 0; its vector holds
    the value of the model's `Masking` layer, if there is such a layer. The first of several rows
    has no masked step, and the last of three or more rows no valid step.

    Args:
        model: The functional model.
        rows: The size of the batch, where the model leaves it free.
        steps: The number of steps, where the model leaves it free.
        seed: A whole number: the same gives the same inputs.
        valid: Optional bool, `(rows, steps)`: the steps that are not masked, in every input.
            Default: at random.
    """
    rng = np.random.default_rng(seed)
    maskings = [x for x in keras_private.parts_of(model) if isinstance(x, keras.layers.Masking)]
    given = []
    for tensor in model.inputs:
        free = [rows, steps] + [_FREE] * len(tensor.shape)
        shape = [free[n] if size is None else size for n, size in enumerate(tensor.shape)]
        kept = valid
        if kept is None:
            kept = rng.random((rows, steps)) < 0.6
            kept[0, : None if rows > 1 else 1] = True
            kept[2:][-1:] = False
        if tuple(shape[:2]) != kept.shape:
            kept = np.ones(shape[:2], bool)
        kept = kept.reshape(kept.shape + (1,) * (len(shape) - kept.ndim))
        ids = ids_below(model, tensor)
        if tensor.dtype == "bool":
            values = np.broadcast_to(kept, shape)
        elif ids is not None:
            values = np.where(kept, rng.integers(min(1, ids - 1), ids, shape), 0)
        else:
            values = rng.normal(size=shape)
            if maskings and len(shape) > 2:
                values = np.where(kept, values, maskings[0].mask_value)
        given.append(np.ascontiguousarray(values, tensor.dtype))
    return given


def typical_inputs(model, representative, owner, rows=None):
    """Returns typical inputs, each as a list of arrays in the model's order.

    Args:
        model: The functional model.
        representative: An iterable of inputs, each as the model is called with.
        owner: `"to_onnx"` or `"to_litert"`.
        rows: The size of each batch, or None: any.

    Raises:
        ValueError: If an input does not fit the model, or holds NaN or infinite numbers, or if
            there is no input.
    """
    if not hasattr(representative, "__iter__"):
        raise ValueError(
            f"{owner}: `representative` must be an iterable of inputs: a list, a generator or a "
            f"`tf.data.Dataset`. Received: {representative!r}."
        )
    found = []
    for given in representative:
        values = _values_of(model, given, rows)
        if values is None:
            raise ValueError(
                f"{owner}: `representative` must hold inputs as the model is called with"
                f"{', of `batch_size` rows' if rows else ''}: "
                f"{[(t.name, _shape(t, rows)) for t in model.inputs]}. "
                f"Received: {tree.map_structure(np.shape, given)}."
            )
        if not all(np.isfinite(value).all() for value in values):
            raise ValueError(
                f"{owner}: `representative` must hold finite numbers: scales are made of them. "
                "Received: NaN or infinite numbers."
            )
        found.append(values)
    if not found:
        raise ValueError(f"{owner}: `representative` must hold an input. Received: none.")
    return found


def _values_of(model, given, rows):
    """Returns inputs as a list of arrays, or None if they are not the model's."""
    try:
        tree.assert_same_structure(model.input, given)
        values = [
            np.asarray(value, t.dtype)
            for value, t in zip(tree.flatten(given), model.inputs, strict=True)
        ]
    except (ValueError, TypeError):
        return None
    shapes = [_shape(t, rows) for t in model.inputs]
    fit = all(compatible(v.shape, shape) for v, shape in zip(values, shapes, strict=True))
    return values if fit else None


def _shape(tensor, rows):
    return (rows, *tensor.shape[1:])
