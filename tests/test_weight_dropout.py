"""Dropped weights of the recurrent kernel: which, for how long, and on every path the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

X = np.random.default_rng(0).normal(size=(6, 9, 3)).astype("float32")
MASK = np.arange(9) < np.array([9, 4, 0, 2, 9, 7])[:, None]


def make(family, fused="auto", rate=0.5):
    layer = family.make(
        4, recurrent_weight_dropout=rate, seed=3, fused=fused, return_sequences=True
    )
    layer.build(X.shape)
    layer.set_weights(family.random_weights(3, 4, dtype="float32"))
    return layer


def trained_once(layer):
    with tf.GradientTape() as tape:
        outputs = layer(X, mask=MASK, training=True)
        loss = tf.reduce_sum(tf.sin(outputs))
    return outputs, tape.gradient(loss, layer.trainable_variables)


@pytest.mark.sampled
def test_a_call_is_that_of_a_layer_without_the_dropped_weights(family):
    """What was dropped has no gradient; the rest is scaled, as in any dropout."""
    layer = make(family)
    outputs, gradients = trained_once(layer)
    kept = gradients[1].numpy() != 0
    assert 0.2 < kept.mean() < 0.8
    kernel, recurrent, bias = layer.get_weights()
    thinned = make(family, rate=0.0)
    thinned.set_weights([kernel, recurrent * kept * 2, bias])
    expected, of_thinned = trained_once(thinned)
    assert_allclose(outputs, expected, atol=1e-6)
    of_thinned[1] = of_thinned[1] * kept * 2
    for a, b in zip(gradients, of_thinned, strict=True):
        assert_allclose(a, b, atol=3e-5)


@pytest.mark.sampled
def test_both_loops_drop_the_same_and_every_call_something_else(family):
    fused, cell_loop = make(family), make(family, fused=False)
    first, second = (trained_once(fused) for _ in range(2))
    assert np.abs(first[0] - second[0]).max() > 1e-3
    for expected in (first, second):
        for a, b in zip(
            tf.nest.flatten(trained_once(cell_loop)), tf.nest.flatten(expected), strict=True
        ):
            assert_allclose(a, b, atol=3e-5)
    in_graph = tf.function(lambda: fused(X, training=True))
    assert np.abs(in_graph() - in_graph()).max() > 1e-3


def test_at_inference_nothing_is_dropped_or_drawn(family):
    layer, plain = make(family), make(family, rate=0.0)
    assert_allclose(layer(X, mask=MASK), plain(X, mask=MASK), atol=1e-6)
    graph = tf.function(lambda x: layer(x)).get_concrete_function(tf.TensorSpec(X.shape)).graph
    assert not [op.type for op in graph.get_operations() if "Random" in op.type]


def test_a_cell_in_an_rnn_of_keras_keeps_one_mask_for_a_sequence(family):
    cell = family.make_cell(4, recurrent_weight_dropout=0.5, seed=3)
    layer = keras.layers.RNN(cell, return_sequences=True)
    layer.build(X.shape)
    layer.set_weights(make(family).get_weights())
    assert_allclose(layer(X, training=True), make(family)(X, training=True), atol=1e-6)


def test_the_draws_go_on_after_a_file_was_loaded(family, tmp_path):
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, make(family)(inputs))
    model(X, training=True)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_allclose(again(X, training=True), model(X, training=True), atol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.5, "half"])
def test_a_rate_that_is_none_is_refused(family, rate):
    with pytest.raises(ValueError, match="`recurrent_weight_dropout` must be a number from 0 to 1"):
        family.make(3, recurrent_weight_dropout=rate)
