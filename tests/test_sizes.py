"""Sizes that a graph learns only when it runs: a wrong one is an error in words, and no answer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import FAMILIES
from grids import product
from numpy.testing import assert_allclose

import keras_gated

FEATURES, UNITS = 3, 4
UNKNOWN, MASK = tf.TensorSpec((None, None, FEATURES)), tf.TensorSpec((None, None), tf.bool)
STATE = tf.TensorSpec((None, UNITS))
ERROR = (tf.errors.InvalidArgumentError, ValueError)
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow graphs")


def x_of(rows=2, time=5):
    return tf.random.normal((rows, time, FEATURES))


LAYERS = {
    "as it is": lambda family: family.make(UNITS),
    "cell's loop": lambda family: family.make(UNITS, fused=False, return_sequences=True),
    "gates": lambda family: family.make(UNITS, return_gates=True, go_backwards=True),
    "both directions": lambda family: keras_gated.Bidirectional(family.make(UNITS)),
}


@pytest.mark.sampled
@pytest.mark.parametrize("family, kind", product(FAMILIES, LAYERS), indirect=["family"])
def test_a_mask_of_another_length_is_an_error(family, kind):
    layer = LAYERS[kind](family)
    layer.build((None, None, FEATURES))

    def loss_of(x, mask):
        return tf.reduce_sum(layer(x, mask=mask)[0])

    def gradient_of(x, mask):
        with tf.GradientTape() as tape:
            loss = loss_of(x, mask)
        return tape.gradient(loss, layer.trainable_variables[0].value)

    function = gradient_of if kind in ("cell's loop", "both directions") else loss_of
    call = tf.function(function, input_signature=[UNKNOWN, MASK], autograph=False)
    call(x_of(), tf.ones((2, 5), tf.bool))
    for steps in (3, 7):
        with pytest.raises(ERROR, match=r"`mask` must be of shape \(batch, time\)"):
            call(x_of(), tf.ones((2, steps), tf.bool))


@pytest.mark.sampled
@pytest.mark.parametrize("rows", [1, 3])
def test_states_of_another_batch_size_are_an_error(family, rows):
    for layer in (family.make(UNITS), family.make(UNITS, fused=False)):
        layer.build((None, None, FEATURES))

        @tf.function(input_signature=[UNKNOWN, [STATE] * family.states], autograph=False)
        def call(x, states, layer=layer):
            return layer(x, initial_state=states)

        call(x_of(), [tf.zeros((2, UNITS))] * family.states)
        with pytest.raises(ERROR, match="the states before must be of shape"):
            call(x_of(), [tf.zeros((rows, UNITS))] * family.states)


@pytest.mark.sampled
def test_other_features_are_an_error(family):
    layer = family.make(UNITS)
    expected = layer(x := x_of())
    call = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None))])
    assert_allclose(call(x), expected, atol=1e-6)
    with pytest.raises(ERROR, match=rf"was built for {FEATURES} features"):
        call(tf.ones((2, 5, FEATURES + 1)))


def test_a_wrong_mask_reaches_no_answer_of_an_exported_model(tmp_path):
    inputs = keras.Input((None, FEATURES), name="x")
    mask = keras.Input((None,), dtype="bool", name="mask")
    model = keras.Model([inputs, mask], keras_gated.LSTM(UNITS)(inputs, mask=mask))
    model.export(tmp_path / "model", verbose=False)
    ask = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    with pytest.raises(ERROR, match=r"`mask` must be of shape \(batch, time\)"):
        ask(x=x_of(), mask=tf.ones((2, 3), tf.bool))


def test_states_of_another_batch_size_do_not_pass_a_stepper():
    inputs = keras.Input((None, FEATURES), name="x")
    model = keras.Model(inputs, keras_gated.GRU(UNITS, name="memory")(inputs))
    from keras_gated.serve.streaming import Stepper

    stepper = Stepper(model)
    call = tf.function(
        lambda x, h: stepper(x, {"memory_hidden": h}), input_signature=[UNKNOWN, STATE]
    )
    call(x_of(), np.zeros((2, UNITS), "float32"))
    with pytest.raises(ERROR, match="the states before must be of shape"):
        call(x_of(), np.zeros((3, UNITS), "float32"))
