"""Cells and layers against NumPy (float64) and against keras.layers, gradients included.

The gradients of NumPy's equations are exact, by the complex step.
"""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from families import ALL, MASKS, mask_array
from grids import in_full_for, product
from numpy.testing import assert_allclose

import keras_gated

BATCH, TIME, FEATURES, UNITS = 3, 5, 2, 2


def data(family, dtype="float64"):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(BATCH, TIME, FEATURES)).astype(dtype)
    states = family.random_states(rng, BATCH, UNITS, dtype)
    # One weight for every output and final state, so that the loss tells them apart.
    outputs = rng.normal(size=(BATCH, TIME, states[0].shape[1])).astype(dtype)
    finals = family.random_states(rng, BATCH, UNITS, dtype)
    return x, states, outputs, finals


def run(layer, x, mask, states, weigh_outputs, weigh_finals):
    """Returns outputs, final states, and the gradients by inputs, states and weights."""
    x, states = tf.constant(x), [tf.constant(s) for s in states]
    with tf.GradientTape() as tape:
        tape.watch([x, *states])
        outputs, *finals = layer(x, mask=mask, initial_state=states)
        loss = tf.reduce_sum(outputs * weigh_outputs)
        loss += sum(tf.reduce_sum(f * w) for f, w in zip(finals, weigh_finals, strict=True))
    variables = [v.value for v in layer.trainable_variables]
    gradients = tape.gradient(loss, [x, *states, *variables], unconnected_gradients="zero")
    return [outputs.numpy(), *(f.numpy() for f in finals)], [g.numpy() for g in gradients]


@pytest.mark.sampled
@pytest.mark.parametrize(
    "name, mask_name, go_backwards, fused",
    in_full_for(("lstm", "gru"), product(ALL, MASKS, (False, True), (False, True))),
)
def test_layers_follow_the_equations_to_1e_10_in_float64(name, mask_name, go_backwards, fused):
    family = ALL[name]
    x, states, weigh_outputs, weigh_finals = data(family)
    mask, weights = mask_array(mask_name), family.random_weights(FEATURES, UNITS)
    layer = family.make(
        UNITS,
        return_sequences=True,
        return_state=True,
        go_backwards=go_backwards,
        dtype="float64",
        fused=fused,
    )
    layer.build(x.shape)
    layer.set_weights(weights)

    def loss(x, *rest):
        outputs, finals = oracles.sequence(
            family.oracle, x, mask, rest[: family.states], rest[family.states :], go_backwards
        )
        weighed = zip([outputs, *finals], [weigh_outputs, *weigh_finals], strict=True)
        return sum(np.sum(value * weight) for value, weight in weighed)

    outputs, finals = oracles.sequence(family.oracle, x, mask, states, weights, go_backwards)
    values, gradients = run(layer, x, mask, states, weigh_outputs, weigh_finals)
    for value, expected in zip(values, [outputs, *finals], strict=True):
        assert_allclose(value, expected, rtol=0, atol=1e-10)
    expected_gradients = oracles.gradients(loss, [x, *states, *weights])
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        assert_allclose(gradient, expected, rtol=0, atol=1e-10)


@pytest.mark.sampled
@pytest.mark.parametrize("go_backwards", [False, True])
def test_layers_equal_keras_layers_with_the_same_weights(family, mask_name, go_backwards):
    x, states, weigh_outputs, weigh_finals = data(family, "float32")
    mask, weights = mask_array(mask_name), family.random_weights(FEATURES, UNITS, dtype="float32")
    options = {"return_sequences": True, "return_state": True, "go_backwards": go_backwards}
    ours, theirs = family.make(UNITS, fused=False, **options), family.make_keras(UNITS, **options)
    for layer, w in ((ours, weights), (theirs, family.convert(weights))):
        layer.build(x.shape)
        layer.set_weights(w)
    values, gradients = run(ours, x, mask, states, weigh_outputs, weigh_finals)
    keras_values, keras_gradients = run(theirs, x, mask, states, weigh_outputs, weigh_finals)
    of_inputs = keras_gradients[: 1 + family.states]
    of_weights = family.convert(keras_gradients[1 + family.states :])
    for value, expected in zip(values, keras_values, strict=True):
        assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    for gradient, expected in zip(gradients, [*of_inputs, *of_weights], strict=True):
        assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.sampled
def test_zero_output_for_mask_zeroes_exactly_the_masked_steps(family, mask_name):
    x, states, *_ = data(family)
    mask, weights = mask_array(mask_name), family.random_weights(FEATURES, UNITS)
    layer = family.make(UNITS, return_sequences=True, zero_output_for_mask=True, dtype="float64")
    layer.build(x.shape)
    layer.set_weights(weights)
    expected, _ = oracles.sequence(
        family.oracle, x, mask, states, weights, zero_output_for_mask=True
    )
    assert_allclose(layer(x, mask=mask, initial_state=states), expected, atol=1e-10)


def test_cells_step_as_keras_cells_do_and_take_their_weights_in_their_order(family):
    x, states, *_ = data(family, "float32")
    weights = family.random_weights(FEATURES, UNITS, dtype="float32")
    ours, theirs = family.make_cell(UNITS), family.keras_cell(UNITS, **family.options)
    for cell, w in ((ours, weights), (theirs, family.convert(weights))):
        cell.build((None, FEATURES))
        cell.set_weights(w)
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights]
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    output, new_states = ours(x[:, 0], states)
    keras_output, keras_states = theirs(x[:, 0], states)
    assert_allclose(output, keras_output, atol=1e-6)
    for state, expected in zip(new_states, keras_states, strict=True):
        assert_allclose(state, expected, atol=1e-6)


def test_lstm_reads_its_gates_in_the_published_order():
    """Zero kernels and four different biases: any swapped pair changes the answer."""
    cell = keras_gated.LSTMCell(1)
    cell.build((None, 1))
    zeros = np.zeros((1, 4))
    cell.set_weights([zeros, zeros, np.array([0.1, 0.2, 0.3, 0.4])])
    x, h, c = np.zeros((1, 1)), np.zeros((1, 1)), np.full((1, 1), 0.5)
    hidden, [_, memory] = cell(x, [h, c])
    # By hand: c = sigmoid(.2) * .5 + sigmoid(.1) * tanh(.3), h = sigmoid(.4) * tanh(c).
    assert_allclose(memory, [[0.42785006]], rtol=1e-6)
    assert_allclose(hidden, [[0.24158424]], rtol=1e-6)


def test_an_open_update_gate_of_the_gru_writes_the_new_memory():
    cell = keras_gated.GRUCell(1)
    cell.build((None, 1))
    zeros = np.zeros((1, 3))
    for bias, expected in ((50.0, np.tanh(0.3)), (-50.0, 0.5)):
        cell.set_weights([zeros, zeros, np.array([[bias, 0.0, 0.3], [0.0, 0.0, 0.0]])])
        hidden, _ = cell(np.zeros((1, 1)), [np.full((1, 1), 0.5)])
        assert_allclose(hidden, [[expected]], rtol=1e-6)


def test_new_layers_start_as_keras_layers_do_with_the_same_seeds(family):
    def weights(make):
        initializers = keras.initializers
        layer = make(
            5,
            kernel_initializer=initializers.GlorotUniform(seed=1),
            recurrent_initializer=initializers.Orthogonal(seed=2),
        )
        layer.build((None, None, 4))
        return layer.get_weights()

    for weight, expected in zip(weights(family.make), weights(family.make_keras), strict=True):
        assert_allclose(weight, expected)
