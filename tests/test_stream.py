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


def begun_by(start):
    """A GRU that begins with what `start` makes of a sequence of two features."""
    text, steps = keras.Input((None, 2), name="text"), keras.Input((None, 3), name="steps")
    gru = keras_gated.GRU(4, return_sequences=True, name="dec")
    return keras.Model([text, steps], gru(steps, initial_state=[start(text)]))


@pytest.mark.parametrize("start", [
    keras_gated.GRU(4, name="enc"),
    lambda text: layers.Dense(4)(layers.GlobalAveragePooling1D()(text)),
], ids=["encoder", "other layer"])  # fmt: skip
@pytest.mark.parametrize("owner", ["stream", "export_model", "to_onnx", "to_litert"])
def test_a_layer_with_an_initial_state_of_its_own_cannot_carry_states(start, owner, tmp_path):
    model = begun_by(start)
    with pytest.raises(ValueError, match=r"'dec'.* .?initial.state"):
        if owner == "stream":
            keras_gated.stream(model)
        else:
            getattr(keras_gated, owner)(model, tmp_path / "written", states=True)


def test_what_a_decoder_attends_to_is_given_whole_with_each_piece(tmp_path):
    x, read = keras.Input((None, 3), name="x"), keras.Input((None, 4), name="read")
    hidden = layers.Attention()([keras_gated.GRU(4, return_sequences=True)(x), read])
    model = keras.Model([x, read], hidden)
    stream, memory = keras_gated.stream(model), RNG.normal(size=(2, 5, 4)).astype("float32")
    parts = [stream.step([X[:, :4], memory]), stream.step([X[:, 4:], memory])]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), model([X, memory]), atol=1e-5)
    for other, words in (
        (memory[:, :2], r"\(2, 2, 4\) after \(2, 5, 4\)"),
        (-memory, "other values"),
    ):
        with pytest.raises(
            ValueError, match=f"'read' must be given whole with each piece.*{words}"
        ):
            stream.step([X[:, 4:], other])
    stream.reset()
    assert stream.step([X, -memory]).shape == (2, 10, 4)
    with pytest.raises(ValueError, match=r"to_litert: .*all steps of the inputs \['read'\]"):
        keras_gated.to_litert(model, tmp_path / "m.tflite", states=True)


def ids_of(*readers, dtype="int32"):
    inputs = [keras.Input((None,), dtype=dtype) for _ in readers]
    hidden = sum(read(x) for read, x in zip(readers, inputs, strict=True))
    return inputs if len(inputs) > 1 else inputs[0], hidden


def one_hot(ids):
    return keras.ops.one_hot(ids, 9)


WORDS = layers.StringLookup(vocabulary=["é", "b"])


@pytest.mark.parametrize("made", [
    lambda: ids_of(one_hot),
    lambda: ids_of(layers.Embedding(2, 9)),
    lambda: ids_of(layers.Embedding(50, 9), layers.Embedding(2, 9)),
    lambda: ids_of(layers.Embedding(2, 9), one_hot),
    lambda: ids_of(lambda x: one_hot(layers.IntegerLookup(vocabulary=[60, 70])(x))),
    lambda: ids_of(lambda x: one_hot(WORDS(x)), dtype="string"),
    lambda: ids_of(lambda x: one_hot(layers.Hashing(9)(x)), dtype="string"),
    lambda: ids_of(layers.Embedding(9, 5), dtype="float32"),
], ids=["one hot", "flag", "word and flag", "flag and one hot", "numbers", "words",
        "hashed", "floats"])  # fmt: skip
def test_a_mean_of_the_steps_is_found_whatever_the_ids_are_read_by(made):
    inputs, hidden = made()
    model = keras.Model(inputs, keras_gated.GRU(4, return_sequences=True)(hidden))
    assert keras_gated.stream(model)
    mean = keras.ops.mean(hidden, axis=1, keepdims=True)  # of equal steps it is each of them
    model = keras.Model(inputs, keras_gated.GRU(4, return_sequences=True)(hidden - mean))
    with pytest.raises(ValueError, match="looks at more than one step"):
        keras_gated.stream(model)


def test_pixels_in_reverse_order_are_found():
    x = keras.Input((None, 3), dtype="uint8")
    turned = layers.Rescaling(1 / 255)(x)[:, ::-1]
    with pytest.raises(ValueError, match="looks at more than one step"):
        keras_gated.stream(keras.Model(x, keras_gated.GRU(4, return_sequences=True)(turned)))


def test_ids_that_a_model_refuses_do_not_stop_it_from_being_streamed():
    ids = keras.Input((None,), dtype="int32")
    table = keras.ops.convert_to_tensor(RNG.normal(size=(2, 3)).astype("float32"))
    hidden = keras_gated.GRU(4, return_sequences=True)(keras.ops.take(table, ids, axis=0))
    model, given = keras.Model(ids, hidden), np.array([[1, 0, 1, 1]])
    received = in_pieces(keras_gated.stream(model), given, [1, 3])
    np.testing.assert_allclose(np.concatenate(received, axis=1), model(given), atol=1e-6)


def test_a_piece_of_masked_steps_or_of_none_is_answered_with_zeros_and_changes_no_state():
    model = small(layers.Masking(), keras_gated.GRU(4))
    stream = keras_gated.stream(model)
    stream.step(X[:, :5])
    for nothing in (np.zeros((2, 3, 3), "float32"), X[:, :0]):
        np.testing.assert_array_equal(stream.step(nothing), np.zeros((2, 4)))
    np.testing.assert_allclose(stream.step(X[:, 5:]), model(X), atol=1e-6)


@pytest.mark.parametrize("states", [
    {}, [1.0], {"z": np.zeros((2, 4))},
    {"l_hidden": np.zeros((2, 5)), "l_memory": np.zeros((2, 4))},
    {"l_hidden": np.zeros((2, 4)), "l_memory": np.zeros((1, 4))},
    {"l_hidden": 0.0, "l_memory": 0.0},
], ids=str)  # fmt: skip
def test_states_that_do_not_fit_are_refused_when_they_are_set(states):
    stream = keras_gated.stream(small(keras_gated.LSTM(4, name="l")))
    with pytest.raises(ValueError, match=r"`states` must be .*'l_memory': 4\}\. Received: "):
        stream.states = states
    with pytest.raises(ValueError, match=r"`rows` must be bool.*rows.dtype=int64"):
        stream.reset(rows=[0, 1])
    stream.states = {"l_memory": [[0.0] * 4] * 2, "l_hidden": np.zeros((2, 4))}
    assert stream.step(X).shape == (2, 4)


def test_other_rows_than_before_are_refused():
    stream = keras_gated.stream(small(keras_gated.LSTM(4)))
    stream.step(X)
    with pytest.raises(ValueError, match=r"as many rows as the states, 2. Received: 1 rows"):
        stream.step(X[:1])
    with pytest.raises(ValueError, match=r"window of steps.*Received: shapes \[\(2, \d\)\]"):
        stream.step(X[:2, 0])
    with pytest.raises(ValueError, match=r"window of steps, of the shapes .*Received: shapes"):
        stream.step(X[..., :-1])
    with pytest.raises(ValueError, match=r"\(2,\). Received: rows.shape=\(3,\)"):
        stream.reset(rows=[True, False, True])
    stream.reset()
    assert stream.step(X[:1]).shape == (1, 4)


def test_inputs_are_taken_by_name_as_the_model_takes_them():
    z, a = keras.Input((None, 3), name="z"), keras.Input((None, 2), name="a")
    joined = layers.Concatenate()([z, a])
    model = keras.Model([z, a], keras_gated.GRU(4, return_sequences=True)(joined))
    given = {"z": np.ones((1, 4, 3), "float32"), "a": np.zeros((1, 4, 2), "float32")}
    stream = keras_gated.stream(model)
    parts = [stream.step({n: v[:, i : i + 2] for n, v in given.items()}) for i in (0, 2)]
    np.testing.assert_allclose(np.concatenate(parts, 1), model(given), atol=1e-6)


class BeginsWithOnes(keras_gated.GRUCell):
    def get_initial_state(self, batch_size=None):
        return [keras.ops.ones((batch_size, self.units))]


def test_a_model_that_does_not_begin_with_zeros_is_refused():
    x = keras.Input((None, 3))
    model = keras.Model(x, keras_gated.RNN(BeginsWithOnes(4))(x))
    with pytest.raises(ValueError, match="does not begin with states of zeros"):
        keras_gated.stream(model)
