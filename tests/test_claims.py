"""What the notes claim of recurrent networks, measured: gradients, order, sharing, any length."""

import how_far_back
import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

import keras_gated


@pytest.mark.slow
def test_with_initial_weights_only_gates_that_are_set_for_it_carry_a_gradient_over_500_steps():
    """The defaults do not: sigmoid(1) = 0.73 of the LSTM's memory stays at a step, 0.73^500 = 0."""
    for family in how_far_back.FAMILIES:
        model = how_far_back.build(family)
        near, far = how_far_back.reach(model, 10), how_far_back.reach(model, 500)
        assert far < 1e-7 and near > 1e-3, family
        if family != "SimpleRNN":
            how_far_back.keep_for(model, 500)
            assert how_far_back.reach(model, 500) > 0.1, family


@pytest.mark.slow
@pytest.mark.parametrize("family", how_far_back.FAMILIES)
def test_trained_to_remember_lstm_and_gru_carry_the_gradient_and_the_vanilla_network_cannot(family):
    keras.utils.set_random_seed(1)
    model, batches = how_far_back.build(family), 400
    if family == "LSTM":  # with its defaults it takes three times as long
        how_far_back.keep_for(model, 200)
        batches = 250
    how_far_back.train(model, (20, 50, 100, 200), batches)
    reach, error = how_far_back.reach(model, 200), how_far_back.error(model, 200)
    if family == "SimpleRNN":
        assert reach < 1e-7 and error > 0.05
    else:
        assert 0.1 < reach < 30 and error < 0.01


@pytest.mark.slow
def test_the_order_of_the_words_changes_the_answer_and_a_bag_of_words_cannot_see_it():
    """Which of two marked words comes first? Every sequence has a twin with the same words."""
    rng = np.random.default_rng(0)
    x = rng.integers(3, 20, (2000, 12))
    places = np.sort(np.stack([rng.permutation(12)[:2] for _ in x]), 1)
    y = rng.integers(0, 2, len(x))
    np.put_along_axis(x, places, np.where(y[:, None], [[1, 2]], [[2, 1]]), 1)
    twins = x.copy()
    np.put_along_axis(twins, places, np.take_along_axis(x, places[:, ::-1], 1), 1)

    def accuracy(summarise):
        ids = keras.Input((None,))
        summary = summarise(keras.layers.Embedding(20, 16)(ids))
        model = keras.Model(ids, keras.layers.Dense(1, "sigmoid")(summary))
        model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
        model.fit(x[:1500], y[:1500], epochs=12, verbose=0)
        both = np.concatenate([x[1500:], twins[1500:]])
        labels = np.concatenate([y[1500:], 1 - y[1500:]])
        return model.evaluate(both, labels, verbose=0)[1]

    assert accuracy(keras.layers.GlobalAveragePooling1D()) == pytest.approx(0.5)
    assert accuracy(keras_gated.LSTM(16)) > 0.95


def test_shuffled_steps_give_another_answer_with_any_weights(family):
    layer = family.make(4)
    x = np.random.default_rng(0).normal(size=(1, 10, 3)).astype("float32")
    assert np.abs(layer(x) - layer(x[:, ::-1])).max() > 1e-3


def test_the_same_parameters_serve_every_number_of_steps(family):
    counts = set()
    for steps in (1, 10, 500, None):
        inputs = keras.Input((steps, 3))
        counts.add(keras.Model(inputs, family.make(4)(inputs)).count_params())
    assert counts == {sum(np.prod(shape) for shape in family.shapes(3, 4))}


@pytest.mark.sampled
def test_one_model_takes_sequences_of_any_length_and_mixes_them_in_a_batch(family):
    ids = keras.Input((None,))
    x = keras.layers.Embedding(9, 3, mask_zero=True)(ids)
    model = keras.Model(ids, family.make(4)(x))
    rng = np.random.default_rng(0)
    lengths = (1, 2, 17, 500)
    rows = [rng.integers(1, 9, n) for n in lengths]
    batch = np.zeros((4, 500), int)
    for place, row in zip(batch, rows, strict=True):
        place[: len(row)] = row
    together = model(batch)
    for answer, row in zip(together, rows, strict=True):
        assert_allclose(answer, model(row[None])[0], atol=1e-6)
