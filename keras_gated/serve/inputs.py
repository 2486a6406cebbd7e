"""The inputs of a model: examples of them, and the structure that the model is called with."""

import keras
import numpy as np
import tensorflow as tf
from keras import tree


def packed(model, values):
    """Returns the values in the structure that the model is called with."""
    inputs = model.inputs if isinstance(model, keras.Sequential) else model.input
    if len(values) == 1 and not isinstance(inputs, dict):
        return values[0]
    return tree.pack_sequence_as(inputs, values)


def example_of(shape, dtype, steps):
    """Returns one row of an input: sines for floats, ones for ids (0 would be padding)."""
    shape, dtype = [1, *(steps if n is None else n for n in shape[1:])], tf.as_dtype(dtype)
    if dtype == tf.string:
        return np.full(shape, b"")
    if dtype.is_floating:
        values = np.sin(np.arange(np.prod(shape, dtype=int)))
        return values.reshape(shape).astype(dtype.as_numpy_dtype)
    return np.ones(shape, dtype.as_numpy_dtype)
