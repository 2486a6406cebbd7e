"""The hard sigmoid of Keras 2 as an activation of any layer, on every path and in files."""

import keras
import numpy as np
import pytest
from grids import product
from keras import layers
from numpy.testing import assert_allclose, assert_array_equal

import keras_gated
from keras_gated import hard_sigmoid

X = np.random.default_rng(0).normal(0, 2, size=(3, 7, 2)).astype("float32")
LAYERS = [keras_gated.LSTM, keras_gated.PeepholeLSTM]


def test_it_is_a_line_cut_off_at_zero_and_one():
    x = np.array([-3, -2.5, -1, 0, 1, 2.5, 3], "float32")
    assert_allclose(hard_sigmoid()(x), [0, 0, 0.3, 0.5, 0.7, 1, 1], atol=1e-6)
    assert_allclose(hard_sigmoid(1, 0.25)(x), [0, 0, 0, 0.25, 1, 1, 1], atol=1e-6)
    sixth = hard_sigmoid(1 / 6)
    assert_allclose(sixth(x), keras.activations.hard_sigmoid(x), atol=1e-6)


def test_equal_ones_are_equal_keys():
    assert hard_sigmoid() == hard_sigmoid(0.2, 0.5) and hash(hard_sigmoid(1, 0)) == hash(
        hard_sigmoid(1.0, 0.0)
    )
    assert hard_sigmoid() != hard_sigmoid(0.3)


@pytest.mark.sampled
@pytest.mark.parametrize("layer, fused", product(LAYERS, (False, True, "compiled")))
def test_every_path_has_the_answers_and_gradients_of_a_plain_function(layer, fused):
    def line(x):
        return keras.ops.clip(0.2 * x + 0.5, 0, 1)

    results = []
    for function, path in ((line, False), (hard_sigmoid(), fused)):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((None, 2))
        model = keras.Model(inputs, layer(5, recurrent_activation=function, fused=path)(inputs))
        model.compile("sgd", "mse", run_eagerly=function is line)
        answer = model.predict(X, verbose=0)
        model.fit(X, np.ones((3, 5)), epochs=2, verbose=0)
        results.append([answer, *model.get_weights()])
    for expected, received in zip(*results, strict=True):
        assert_allclose(received, expected, atol=1e-5)


def test_it_is_saved_and_loaded(tmp_path):
    inputs = keras.Input((None, 2))
    x = keras_gated.GRU(4, recurrent_activation=hard_sigmoid(0.3, 0.4))(inputs)
    model = keras.Model(inputs, layers.Dense(3, activation=hard_sigmoid())(x))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.layers[1].recurrent_activation == hard_sigmoid(0.3, 0.4)
    assert_array_equal(loaded(X), model(X))


def test_layers_of_keras_that_have_it_become_ours_and_back():
    theirs = layers.GRU(4, recurrent_activation=hard_sigmoid())
    theirs.build(X.shape)
    ours = keras_gated.from_keras(theirs)
    assert ours.recurrent_activation == hard_sigmoid()
    assert_allclose(ours(X), theirs(X), atol=1e-6)
    assert_allclose(keras_gated.to_keras(ours)(X), theirs(X), atol=1e-6)


def test_a_gru_whose_gates_are_no_complement_is_refused():
    theirs = layers.GRU(4, recurrent_activation=hard_sigmoid(0.2, 0.4), name="mine")
    theirs.build(X.shape)
    with pytest.raises(ValueError, match=r"recurrent_activation.*'mine'"):
        keras_gated.from_keras(theirs)


@pytest.mark.parametrize("wrong", [{"slope": "a"}, {"offset": None}, {"slope": float("inf")}])
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(ValueError, match=f"hard_sigmoid: `{next(iter(wrong))}`"):
        hard_sigmoid(**wrong)
