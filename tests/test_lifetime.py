"""What layers leave behind: nothing that is traced, compiled or derived outlives them."""

import gc
import logging
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from chunks import shorten_chunks
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.eager import context

import keras_gated
from keras_gated.cells.equations import equations_of
from keras_gated.paths import packing

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow graphs")


def functions():
    gc.collect()
    return set(context.context().list_function_names())


def trained_eagerly(family, masked):
    layer, x = family.make(3), tf.random.normal((4, 6, 2))
    with tf.GradientTape() as tape:
        mask = tf.ones((4, 6), tf.bool) if masked else None
        loss = tf.reduce_sum(layer(x, mask=mask, training=True))
    tape.gradient(loss, layer.trainable_variables)
    layer(x, mask=mask)


@pytest.mark.sampled
@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_that_is_dropped_leaves_no_function(family, masked):
    trained_eagerly(family, masked)
    before = functions()
    for _ in range(3):
        trained_eagerly(family, masked)
    assert functions() == before


def test_equations_of_a_size_are_forgotten_when_many_other_sizes_came_after_it():
    def equations(units):
        cell = keras_gated.LSTMCell(units)
        cell.build((None, 2))
        return weakref.ref(equations_of(cell))

    kept, first = equations(3), equations(2)
    for units in range(4, 90):
        assert equations(3)() is kept()  # a size in use stays
        equations(units)
    gc.collect()
    assert first() is None and kept() is not None


@pytest.mark.slow
def test_a_model_that_is_dropped_leaves_no_function():
    def fitted():
        ids = keras.Input((None,), dtype="int32")
        x = keras.layers.Embedding(9, 2, mask_zero=True)(ids)
        model = keras.Model(ids, keras.layers.Dense(1)(keras_gated.LSTM(3)(x)))
        model.compile("adam", "mse")
        model.fit(np.ones((4, 6), "int32"), np.zeros(4), verbose=0)
        model.predict(np.ones((4, 6), "int32"), verbose=0)

    fitted()
    keras.utils.clear_session()
    before = functions()
    fitted()
    keras.utils.clear_session()
    assert functions() == before


@pytest.mark.slow  # a derivative that is written, and one that is derived
@pytest.mark.parametrize("family", ["simple_rnn", "gru_reset_before"], indirect=True)
def test_many_layers_warn_of_no_retracing(family, caplog):
    x = tf.random.normal((2, 2, 3))
    with caplog.at_level(logging.WARNING, logger="tensorflow"):
        for units in range(2, 9):
            layer = family.make(units)
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x, training=True))
            tape.gradient(loss, layer.trainable_variables)
            layer(x)
    assert "retracing" not in caplog.text


@pytest.mark.slow
def test_an_unknown_number_of_rows_is_compiled_for_few_shapes():
    @tf.function(input_signature=[tf.TensorSpec((None, 4, 2)), tf.TensorSpec((None, 3))])
    def rows_of(x, state):
        batch = packing.pack(x, [state], False, False, packing.COMPILED)
        return [group.chunks.rows for group in batch.groups]

    shapes = set()
    for rows in range(1, 65):
        found = rows_of(tf.zeros((rows, 4, 2)), tf.zeros((rows, 3)))
        shapes |= {int(n) for group in found for n in group}
        assert sum(int(n) for group in found for n in group) < rows + packing.COMPILED.rows
    assert shapes - {0} == {8, 16, 24, 32}


@pytest.mark.slow
def test_a_model_with_a_mask_is_differentiated_after_loading_and_holds_no_own_derivative(
    tmp_path, monkeypatch
):
    shorten_chunks(monkeypatch)
    inputs = keras.Input((None, 2), name="x")
    masked = keras.layers.Masking()(inputs)
    both = keras_gated.Bidirectional(keras_gated.GRU(3))(masked)
    model = keras.Model(inputs, keras.layers.Dense(1)(both))
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(4, 8, 2)).astype("float32")
    x[1, 5:] = x[2, 3:] = x[3] = 0
    model.fit(x, np.zeros(4), verbose=0)
    model.export(tmp_path / "model", verbose=False)

    x = tf.constant(x)
    loaded = tf.saved_model.load(tmp_path / "model")
    ask = loaded.signatures["serving_default"]
    found = []
    for call in (model, lambda x: next(iter(ask(x=x).values()))):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(call(x) ** 2)
        found.append(tape.gradient(loss, x).numpy())
    np.testing.assert_allclose(*found, atol=1e-6)
    assert np.abs(found[0]).max() > 1e-4

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((tmp_path / "model" / "saved_model.pb").read_bytes())
    library = saved.meta_graphs[0].graph_def.library.function
    nodes = [*saved.meta_graphs[0].graph_def.node, *(n for f in library for n in f.node_def)]
    assert not [n.name for n in nodes if "_gradient_op_type" in n.attr]
