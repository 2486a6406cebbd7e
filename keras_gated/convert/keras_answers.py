"""Compares a model of Keras with the converted model: their answers to random masked inputs."""

import json
import os

import keras
import numpy as np

from keras_gated import keras_private
from keras_gated.convert.examples import ANY_DTYPE, difference, fixed_sizes, random_inputs
from keras_gated.convert.keras2 import spec_of

_BATCHES = [(3, 7), (1, 5)]  # rows and steps, where a model leaves them free


def check_answers(new, old, owner):
    """Prints the largest difference of two models' answers, or raises if it is not rounding.

    Args:
        new: The converted model, layer or cell.
        old: The original, of `keras.layers` or `tf_keras`.
        owner: What the message begins with.

    Raises:
        ValueError: If the answers differ, or a layer is not built yet.
    """
    if not isinstance(new, keras.Model):
        new, old = (_model_around(layer, new, owner) for layer in (new, old))
    states = _states_of(new) + (_states_of(old) if isinstance(old, keras.Model) else [])
    before = [keras.ops.convert_to_numpy(state) for state in states]
    rows, steps = fixed_sizes(new)
    largest = 0.0
    for seed, (some_rows, some_steps) in enumerate(_BATCHES):
        given = random_inputs(new, rows or some_rows, steps or some_steps, seed)
        received, expected = (_answers(model, given) for model in (new, old))
        largest = max(largest, difference(received, expected))
    for state, value in zip(states, before, strict=True):
        state.assign(value)
    dtypes = [part.compute_dtype for part in keras_private.parts_of(new)]
    accepted = max(ANY_DTYPE.get(dtype, ANY_DTYPE["float16"]) for dtype in dtypes)
    if not largest <= accepted:
        raise ValueError(
            f"{owner}: {new.name!r} answers otherwise than the original, by {largest:.2g} of the "
            f"largest answer (accepted: {accepted:.0e}), to random inputs. Please report it; "
            "check=False converts all the same."
        )
    print(f"{owner}: the largest difference from the original is {largest:.1e} (random masks)")


def _answers(model, given):
    if isinstance(model, keras_private.Functional):
        given = keras.tree.pack_sequence_as(model.input, given)
    elif len(given) == 1:
        [given] = given
    answers = model(given, training=False)
    return [np.asarray(y) for y in keras.tree.flatten(answers)]


def _states_of(model):
    return [
        state
        for layer in keras_private.parts_of(model)
        if isinstance(layer, keras.layers.RNN) and layer.stateful
        for state in keras.tree.flatten(layer.states)
    ]


def _model_around(layer, new, owner):
    if not new.built:
        raise ValueError(
            f"{owner}: `check=True` asks a layer that has weights. Received: {new!r}, which is not "
            "built. Call it once, or leave `check` out."
        )
    shape = new.get_build_config()["input_shape"]
    dtype = layer.compute_dtype
    if len(shape) == 2:  # the layer is a cell
        shape, layer = (shape[0], None, shape[1]), keras.layers.RNN(layer, dtype=dtype)
    x = keras.Input(batch_shape=shape, dtype=dtype)
    mask = keras.Input(batch_shape=shape[:2], dtype="bool")
    return keras.Model([x, mask], layer(x, mask=mask))


def load_in_tf_keras(path, architecture, owner):
    """Returns the model of a file of Keras 2, loaded by `tf_keras`.

    Raises:
        ImportError: If `tf_keras` is not installed.
        ValueError: If it cannot load the file; if the architecture is a model of Keras 3.
    """
    try:
        import tf_keras
    except ImportError as error:
        raise ImportError(
            f"{owner}: `check=True` asks tf_keras, which is not installed. Install it (pip install "
            "tf_keras), or leave `check` out."
        ) from error
    if isinstance(architecture, keras.Model):
        raise ValueError(
            f"{owner}: tf_keras cannot be asked about a model that was built by today's Keras. "
            "Give the `architecture` as JSON of Keras 2, or leave `check` out."
        )
    # cuDNN's layers need a GPU. tf_keras loads their weights into its other layers.
    classes = {"CuDNNLSTM": tf_keras.layers.LSTM, "CuDNNGRU": tf_keras.layers.GRU}
    try:
        if architecture is None:
            return tf_keras.models.load_model(path, custom_objects=classes, compile=False)
        if isinstance(architecture, tf_keras.Model):
            model = tf_keras.models.clone_model(architecture)
        else:
            model = tf_keras.models.model_from_json(json.dumps(spec_of(architecture)), classes)
        loaded = model.load_weights(os.fspath(path))
        if loaded is not None:
            loaded.expect_partial()
        return model
    except Exception as error:
        raise ValueError(
            f"{owner}: tf_keras {tf_keras.__version__} cannot load {os.fspath(path)!r}: {error} "
            "Leave `check` out."
        ) from error
