"""Same seed, same training, to the bit: with dropout, with masks, and across save and load."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import FAMILIES

import keras_gated


def model_of(family, **options):
    keras.utils.set_random_seed(3)
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(50, 16, mask_zero=True)(ids)
    x = keras_gated.Bidirectional(family.make(24, **options))(x)
    model = keras.Model(ids, keras.layers.Dense(1, "sigmoid")(x))
    model.compile("adam", "binary_crossentropy")
    return model


def reviews():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 50, (96, 40))
    ids[np.arange(40) >= rng.integers(1, 41, (96, 1))] = 0
    return ids, rng.integers(0, 2, (96, 1)).astype("float32")


def train(model, epochs, initial=0):
    x, y = reviews()
    model.fit(x, y, 32, epochs, initial_epoch=initial, shuffle=False, verbose=0)
    return [v.numpy() for v in (*model.weights, *model.optimizer.variables)]


@pytest.mark.slow
@pytest.mark.parametrize("name, options", [
    pytest.param("lstm", {"dropout": 0.3}, marks=pytest.mark.long),
    ("gru", {"dropout": 0.2, "recurrent_dropout": 0.2}),
])  # fmt: skip
def test_two_trainings_are_one_and_may_be_saved_and_loaded_between(name, options, tmp_path):
    family = FAMILIES[name]
    whole = train(model_of(family, **options), 2)
    half = model_of(family, **options)
    train(half, 1)
    half.save(tmp_path / "half.keras")
    halves = train(keras.saving.load_model(tmp_path / "half.keras"), 2, initial=1)
    for a, b in zip(whole, halves, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.sampled
@pytest.mark.parametrize("wrap", ["layer", "cell", "stacked", "bidirectional"])
def test_inference_graphs_hold_no_random_op_and_no_assignment(family, wrap):
    options = {"dropout": 0.3, "recurrent_dropout": 0.3}
    layer = {
        "layer": lambda: family.make(5, **options),
        "cell": lambda: keras.layers.RNN(family.make_cell(5, **options)),
        "stacked": lambda: keras.layers.RNN([family.make_cell(5, **options) for _ in range(2)]),
        "bidirectional": lambda: keras.layers.Bidirectional(family.make(5, **options)),
    }[wrap]()
    layer.build((None, None, 3))
    spec = tf.TensorSpec((None, None, 3))
    for training in (False, None):
        function = tf.function(lambda x, training=training: layer(x, training=training))
        definition = function.get_concrete_function(spec).graph.as_graph_def()
        nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
        assert not [n.op for n in nodes if "Random" in n.op or "Assign" in n.op]


def test_dropout_in_keras_rnn_is_one_mask_for_all_steps():
    still = {"recurrent_initializer": "zeros", "kernel_initializer": "ones"}
    rnn = keras.layers.RNN(
        keras_gated.SimpleRNNCell(5, dropout=0.5, seed=1, **still), return_sequences=True
    )
    x = np.random.default_rng(0).normal(size=(2, 1, 3)).repeat(4, axis=1)
    output = np.array(rnn(x, training=True))
    np.testing.assert_allclose(output, output[:, :1].repeat(4, axis=1))
    assert np.abs(output - np.array(rnn(x))).max() > 1e-3


RANDOM = {"kernel_initializer": "he_normal", "recurrent_initializer": "glorot_normal",
          "bias_initializer": "random_normal"}  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("options", [
    {}, RANDOM, {"dropout": 0.2}, {**RANDOM, "dropout": 0.2, "recurrent_dropout": 0.1},
], ids=str)  # fmt: skip
def test_weights_start_as_those_of_keras_do_with_the_same_global_seed(family, options):
    """Alone, as a cell, and as the later layers of a model: every seed is drawn in its turn."""
    initial = []
    for module in (keras.layers, keras_gated):
        keras.utils.set_random_seed(7)
        name = family.layer.__name__
        layer, cell = getattr(module, name), getattr(module, f"{name}Cell")
        options = {**family.options, **options}
        inputs = keras.Input((None, 3))
        x = layer(4, return_sequences=True, **options)(inputs)
        x = module.Bidirectional(layer(4, return_sequences=True, **options))(x)
        x = keras.layers.RNN([cell(3, **options), cell(2, **options)], return_sequences=True)(x)
        x = layer(4, **options)(keras.layers.Dense(5)(x))
        initial.append(keras.Model(inputs, x).get_weights())
    for a, b in zip(*initial, strict=True):
        np.testing.assert_array_equal(a, b)
