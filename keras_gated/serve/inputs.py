"""The inputs of a model: examples of them, and the structure that the model is called with."""

import keras
import numpy as np
from keras import tree

from keras_gated import keras_private

# Ids, and the numbers of pixels, are below these if no layer says how many there are.
_IDS, _PIXELS = 4, 256


def packed(model, values):
    """Returns the values in the structure that the model is called with."""
    inputs = model.inputs if isinstance(model, keras.Sequential) else model.input
    if len(values) == 1 and not isinstance(inputs, dict):
        return values[0]
    return tree.pack_sequence_as(inputs, values)


def example_of(shape, dtype, steps):
    """Returns one row of an input: sines for floats, ones for ids (0 would be padding)."""
    import tensorflow as tf  # the converters read this file with every backend

    shape, dtype = [1, *(steps if n is None else n for n in shape[1:])], tf.as_dtype(dtype)
    if dtype == tf.string:
        return np.full(shape, b"")
    if dtype.is_floating:
        values = np.sin(np.arange(np.prod(shape, dtype=int)))
        return values.reshape(shape).astype(dtype.as_numpy_dtype)
    return np.ones(shape, dtype.as_numpy_dtype)


def random_values(model, tensor, shape, draws):
    """Returns an array for an input: words or ids that the model knows, or numbers around 0.

    No id is 0, which is padding. Only if a model has no padding and knows two ids, 0 is drawn, too.

    Args:
        model: The model.
        tensor: The input, one of `model.inputs`.
        shape: The shape of the array.
        draws: A `np.random.Generator`.
    """
    of_text = tensor.dtype == "string"
    words = [w for x in _readers(model, tensor, _vocabulary) for w in _vocabulary(x)]
    words = [word for word in words if isinstance(word, str) == of_text]
    pixels = tensor.dtype == "uint8" and len(shape) > 2
    ids = ids_below(model, tensor, _PIXELS if pixels else _IDS)
    if tensor.dtype == "bool":
        return np.ones(shape, bool)
    if words or of_text:
        values = draws.choice(words or ["a", "b", "c"], shape)
    elif ids is not None:
        padded = any(getattr(x, "mask_zero", False) for x in keras_private.parts_of(model))
        values = draws.integers(min(1, ids - 1) if padded or ids > 2 else 0, ids, shape)
    else:
        values = draws.normal(size=shape)
    return np.char.encode(values, "utf-8") if of_text else values.astype(tensor.dtype)


def ids_below(model, tensor, otherwise=2):
    """Returns the number that all ids of an input must be below, or None if it takes no ids.

    Args:
        model: The functional model.
        tensor: The input, one of `model.inputs`.
        otherwise: The number for whole numbers that no table of the model reads.
    """
    tables = _readers(model, tensor, _size)
    if "int" not in tensor.dtype and not any(_reads(model, layer, tensor) for layer in tables):
        return None
    return min(map(_size, tables), default=otherwise)


def _readers(model, tensor, what):
    """Returns the layers that read an input and of which `what` is true.

    If none reads it directly, they are those that read no input directly: one of them may read it
    behind other layers. Numbers that are not whole are read directly only.
    """
    layers = [layer for layer in keras_private.parts_of(model) if what(layer)]
    own = [layer for layer in layers if _reads(model, layer, tensor)]
    if own or "float" in tensor.dtype:
        return own
    return [x for x in layers if not any(_reads(model, x, other) for other in model.inputs)]


def _reads(model, layer, tensor):
    read = [x for node in layer._inbound_nodes for x in node.input_tensors]
    return any(own is x for own in _handed_on(model, tensor) for x in read)


def _handed_on(model, tensor):
    """Yields an input, and the inputs of the models within the model that are given it."""
    yield tensor
    for layer in model.layers:
        inner = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer
        if isinstance(inner, (keras.Sequential, keras_private.Functional)):
            for node in layer._inbound_nodes:
                for given, own in zip(node.input_tensors, inner.inputs, strict=False):
                    if given is tensor:
                        yield from _handed_on(inner, own)


def _size(layer):
    """Returns the number of ids that a layer knows, or None if it reads no ids."""
    if isinstance(layer, keras.layers.Embedding):
        return layer.input_dim
    if isinstance(layer, keras.layers.CategoryEncoding):
        return layer.num_tokens
    return getattr(layer, "words", None)  # of our NGrams


def _vocabulary(layer):
    """Returns the words that a lookup layer knows, or an empty list."""
    if not hasattr(layer, "get_vocabulary") or getattr(layer, "invert", False):
        return []
    return list(layer.get_vocabulary(include_special_tokens=False))
