"""A model that reads what comes, piece by piece."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_gated

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 10, 3)).astype("float32")


def theirs(sequences=True):
    x = keras.Input((None, 3), name="x")
    y = layers.GRU(4, return_sequences=True, name="g")(x)
    y = layers.LSTM(5, return_sequences=sequences, name="l")(y)
    model = keras.Model(x, {"y": layers.Dense(2)(y), "z": layers.Dense(1)(y)})
    model.set_weights([RNG.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def in_pieces(stream, x, ends):
    return [stream.step(x[:, a:b]) for a, b in zip([0, *ends], [*ends, None], strict=True)]


@pytest.mark.sampled
@pytest.mark.parametrize("sequences", [True, False])
def test_pieces_of_any_length_are_the_whole_sequence_of_keras(sequences):
    model = theirs(sequences)
    stream = keras_gated.stream(keras_gated.from_keras(model))
    for x, ends in ((X, [1, 2, 5]), (-X[:1], [9]), (X, [])):
        expected, answers = model(x), in_pieces(stream, x, ends)
        for name in ("y", "z"):
            parts = [answer[name] for answer in answers]
            received = np.concatenate(parts, axis=1) if sequences else parts[-1]
            np.testing.assert_allclose(received, expected[name], atol=1e-5)
        assert stream.flush() is answers[-1]
    assert stream.flush() is None and stream.states is None


@pytest.mark.slow
def test_rows_begin_anew_alone_and_states_can_be_kept():
    model = theirs()
    stream = keras_gated.stream(keras_gated.from_keras(model))
    stream.reset(rows=[True])  # nothing was read yet
    stream.step(X[:, :4])
    kept = stream.states
    assert {name: state.shape for name, state in kept.items()} == {
        "g_hidden": (2, 4), "l_hidden": (2, 5), "l_memory": (2, 5)
    }  # fmt: skip
    stream.reset(rows=[True, False])
    received = stream.step(X[:, 4:])["y"]
    np.testing.assert_allclose(received[:1], model(X[:1, 4:])["y"], atol=1e-5)
    np.testing.assert_allclose(received[1:], model(X[1:])["y"][:, 4:], atol=1e-5)
    other = keras_gated.stream(keras_gated.from_keras(model))
    other.states = kept
    np.testing.assert_allclose(other.step(X[:, 4:])["y"], model(X)["y"][:, 4:], atol=1e-5)


def test_masked_steps_change_no_state_and_answer_zeros_at_the_start_of_a_piece():
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, 3, mask_zero=True)(ids)
    model = keras.Model(ids, layers.LSTM(4, return_sequences=True)(x))
    stream = keras_gated.stream(keras_gated.from_keras(model))
    given = np.array([[1, 2, 0, 3, 0, 5], [0, 0, 4, 0, 0, 6]])
    received = np.concatenate(in_pieces(stream, given, [2, 3]), axis=1)
    expected = np.array(model(given))
    expected[0, 2] = expected[1, 3:5] = 0
    np.testing.assert_allclose(received, expected, atol=1e-6)


def small(*recurrent, steps=None):
    return keras.Sequential([keras.Input((steps, 3)), *recurrent])


@pytest.mark.parametrize("model, message", [
    (small(layers.Conv1D(3, 2, padding="causal"), keras_gated.LSTM(4)), "more than one step"),
    (small(keras_gated.LSTM(4, return_sequences=True), layers.GlobalMaxPooling1D()), "more than"),
    (small(layers.LSTM(4)), "not a layer of keras_gated"),
    (small(keras_gated.Bidirectional(keras_gated.LSTM(4))), "reads the sequence from its end"),
    (small(layers.Dense(4)), "holds no recurrent layer"),
    (small(keras_gated.LSTM(4), steps=5), "unknown number of steps"),
    (keras.Sequential([keras_gated.LSTM(4)]), "knows its input"),
    (keras_gated.LSTM(4), "must be a functional model"),
])  # fmt: skip
def test_what_cannot_be_streamed_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        keras_gated.stream(model)


@pytest.mark.parametrize("inputs", [
    [keras.Input((None, 3))],
    [keras.Input((None, 3), batch_size=1)],
    [keras.Input((None,), dtype="int32"), layers.Embedding(9, 3, mask_zero=True)],
], ids=["numbers", "one row", "ids"])  # fmt: skip
def test_a_pool_is_found_where_one_row_would_not_show_it(inputs):
    # A unit that forgets at once and follows the first feature: a pool over few rows of numbers,
    # or of the same id at all steps, may give the last output and so look like none.
    recurrent = keras_gated.LSTM(1, return_sequences=True)
    model = keras.Sequential([*inputs, recurrent, layers.GlobalMaxPooling1D()])
    kernel = np.array([[0, 0, 1, 0], [0] * 4, [0] * 4])
    recurrent.set_weights([kernel, np.zeros((1, 4)), np.array([3, -9, 0, 3.0])])
    with pytest.raises(ValueError, match="looks at more than one step"):
        keras_gated.stream(model)


def test_other_rows_than_before_are_refused():
    stream = keras_gated.stream(small(keras_gated.LSTM(4)))
    stream.step(X)
    with pytest.raises(ValueError, match=r"as many rows as the states, 2. Received: 1 rows"):
        stream.step(X[:1])
    with pytest.raises(ValueError, match=r"window of steps.*Received: shapes \[\(2, \d\)\]"):
        stream.step(X[:2, 0])
    with pytest.raises(ValueError, match=r"\(2,\). Received: rows.shape=\(3,\)"):
        stream.reset(rows=[True, False, True])
    stream.reset()
    assert stream.step(X[:1]).shape == (1, 4)
