"""An LSTM in LiteRT: one operation, wherever it can be, that begins every call anew."""

import re

import keras
import numpy as np
import pytest
from keras import layers
from litert_files import File, set_random

import keras_gated
from keras_gated import to_litert

pytest.importorskip("ai_edge_litert")

LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
UNITS = 6


def steps(name="x"):
    return keras.Input((None, 3), name=name)


def alone(lstm):
    x = steps()
    return keras.Model(x, lstm(UNITS)(x)), 1


def all_steps(lstm):
    x = steps()
    return keras.Model(x, lstm(UNITS, return_sequences=True, use_bias=False)(x)), 1


def stacked(lstm):
    model = keras.Sequential([steps(), lstm(5, return_sequences=True), lstm(UNITS)])
    model.add(layers.Dense(2))
    return model, 2


def both_directions(lstm):
    x = steps()
    both = layers.Bidirectional(lstm(4, return_sequences=True), merge_mode="sum")(x)
    return keras.Model(x, layers.Dense(2)(layers.Bidirectional(lstm(UNITS))(both))), 4


def backwards(lstm):
    x = steps()
    y = lstm(UNITS, go_backwards=True, return_sequences=True)(x)
    return keras.Model(x, [y, lstm(UNITS, go_backwards=True)(x)]), 2


def given_states(lstm):
    x, h, c = steps(), keras.Input((UNITS,), name="h"), keras.Input((UNITS,), name="c")
    y = lstm(UNITS, return_sequences=True)(x, initial_state=[h, c])
    return keras.Model([x, h, c], y), 1


def hidden_state_read(lstm):
    y, h, _ = lstm(UNITS, return_sequences=True, return_state=True)(x := steps())
    return keras.Model(x, [y, layers.Dense(2)(h)]), 1


def constant_states(lstm):
    states = [keras.ops.full((2, UNITS), 0.5), keras.ops.full((2, UNITS), -0.5)]
    return keras.Model(x := steps(), lstm(UNITS)(x, initial_state=states)), 1


def one_layer_twice(lstm):
    layer, x, other = lstm(UNITS), steps(), steps("other")
    return keras.Model([x, other], layers.Add()([layer(x), layer(other)])), 2


MODELS = [alone, all_steps, stacked, both_directions, backwards, given_states, hidden_state_read]
MODELS += [constant_states, one_layer_twice]


@pytest.mark.sampled
@pytest.mark.parametrize("make", MODELS)
def test_an_lstm_of_keras_is_one_operation_and_every_call_begins_anew(make, tmp_path):
    theirs, count = make(layers.LSTM)
    set_random(theirs)
    written = to_litert(theirs, tmp_path / "model.tflite", batch_size=2)
    file, rng = File(tmp_path / "model.tflite"), np.random.default_rng(0)
    assert file.operations()[LSTM] == count == written.operations[LSTM]
    assert "WHILE" not in file.operations() and not written.not_fused
    for length in (1, 11):
        shapes = [(2, length, 3) if len(x.shape) == 3 else (2, UNITS) for x in theirs.inputs]
        file.resize(*shapes)
        for call in range(4):
            if call == 3:
                file.interpreter.reset_all_variables()
            given = [rng.normal(size=shape).astype("float32") for shape in shapes]
            expected = theirs(given if len(given) > 1 else given[0])
            for received, answer in zip(file(*given), keras.tree.flatten(expected), strict=True):
                np.testing.assert_allclose(received, answer, atol=2e-6)


def test_infinite_inputs_do_not_reach_the_states(tmp_path):
    model = set_random(alone(layers.LSTM)[0])
    to_litert(model, tmp_path / "model.tflite")
    file = File(tmp_path / "model.tflite")
    file.resize((1, 2, 3))
    x = np.array([[[np.inf, 0, 0], [0, 1, 0]]], "float32")
    np.testing.assert_allclose(file(x)[0], model(x), atol=2e-6)


def made(layer):
    x = steps()
    return keras.Model(x, layer(x)), x


@pytest.mark.sampled
@pytest.mark.parametrize("layer, reason", [
    (keras_gated.GRU(4), "operation for an LSTM alone"),
    (keras_gated.CoupledLSTM(4), "operation for an LSTM alone"),
    (keras_gated.PeepholeLSTM(4), "PeepholeLSTMCell"),
    (keras_gated.LayerNormLSTM(4), "LayerNormLSTMCell"),
    (keras_gated.LSTM(4, activation="relu"), "`activation=.tanh.`"),
    (keras_gated.LSTM(4, recurrent_activation="hard_sigmoid"), "`recurrent_activation=.sigmoid.`"),
    (keras_gated.LSTM(4, projection=2), "no projection"),
    (keras_gated.LSTM(4, zoneout=0.1), "`zoneout`"),
])  # fmt: skip
def test_what_is_no_plain_lstm_says_so(layer, reason, tmp_path):
    model, _ = made(layer)
    written = to_litert(set_random(model), tmp_path / "model.tflite")
    assert written.fused == () and list(written.not_fused) == [layer.name]
    assert re.search(reason, written.not_fused[layer.name])
    assert LSTM not in File(tmp_path / "model.tflite").operations()


class Inside(layers.Layer):
    def __init__(self):
        super().__init__()
        self.lstm = keras_gated.LSTM(4, name="inside")

    def build(self, shape):
        self.lstm.build(shape)

    def call(self, x):
        import tensorflow as tf

        return tf.map_fn(lambda row: self.lstm(row[None])[0], tf.ensure_shape(x, (1, None, 3)))

    def compute_output_shape(self, shape):
        return shape[0], 4


@pytest.mark.slow
def test_what_the_model_does_with_an_lstm_may_forbid_it(tmp_path):
    ids, x = keras.Input((None,), dtype="int32", name="ids"), steps()
    masked = keras_gated.LSTM(4, name="masked")(layers.Embedding(9, 3, mask_zero=True)(ids))
    _, h, c = keras_gated.LSTM(4, return_state=True, name="encoder")(x)
    decoder = keras_gated.LSTM(4, return_sequences=True, name="decoder")
    decoded = decoder(x, initial_state=[h, c])
    inside = Inside()
    model = set_random(keras.Model([ids, x], [masked, decoded, inside(x)]))
    written = to_litert(model, tmp_path / "model.tflite")
    assert written.fused == ("decoder",) and written.operations[LSTM] == 1
    assert "mask" in written.not_fused.pop("masked")
    assert "final memory is read" in written.not_fused.pop("encoder")
    assert "called inside a function, a loop or a map" in written.not_fused.pop("inside")
    assert not written.not_fused


class Doubled(layers.LSTM):
    def call(self, sequences, initial_state=None, mask=None, training=False):
        return 2 * super().call(sequences, initial_state, mask, training)


def test_a_layer_that_is_not_what_it_is_called_stays_itself(tmp_path):
    x = steps()
    model = set_random(
        keras.Model(x, Doubled(4, name="doubled")(layers.LSTM(3, return_sequences=True)(x)))
    )
    written = to_litert(model, tmp_path / "model.tflite")
    assert written.fused == () and "Doubled" in written.not_fused["doubled"]
    file, given = File(tmp_path / "model.tflite"), np.ones((1, 4, 3), "float32")
    file.resize(given.shape)
    np.testing.assert_allclose(file(given)[0], model(given), atol=1e-6)


def test_inputs_and_outputs_stand_in_the_order_of_the_model(tmp_path):
    z, a = keras.Input((None, 3), name="z"), keras.Input((2,), name="a")
    outputs = [keras_gated.LSTM(4, name="y")(z), layers.Dense(5, name="b")(a)]
    outputs.append(layers.Dense(6, name="c")(outputs[0]))
    to_litert(set_random(keras.Model([z, a], outputs)), tmp_path / "model.tflite")
    file = File(tmp_path / "model.tflite")
    assert [tuple(d["shape"]) for d in file.inputs] == [(1, 1, 3), (1, 2)]
    assert [tuple(d["shape"]) for d in file.outputs] == [(1, 4), (1, 5), (1, 6)]
    named = file.interpreter.get_signature_list()["serving_default"]
    assert named == {"inputs": ["a", "z"], "outputs": ["b", "c", "y"]}


def test_a_file_that_goes_on_where_it_ended_is_not_written(monkeypatch, tmp_path):
    monkeypatch.setattr("keras_gated.paths.litert._computed", lambda states, *_: states)
    model = set_random(alone(layers.LSTM)[0])
    with pytest.raises(ValueError, match="answers the same inputs differently at another time"):
        to_litert(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_an_lstm_that_the_converter_does_not_know_is_told(monkeypatch, tmp_path):
    unknown = {"api_implements": "unknown"}
    monkeypatch.setattr("keras_gated.paths.litert._ATTRIBUTES", unknown)
    with pytest.raises(ValueError, match="made 0 operations of 1 calls"):
        to_litert(alone(layers.LSTM)[0], tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_any_name_of_an_input_will_do(tmp_path):
    x = keras.Input((None, 3), name="my input.1")
    to_litert(keras.Model(x, keras_gated.LSTM(4)(x)), tmp_path / "model.tflite")
    signature = File(tmp_path / "model.tflite").interpreter.get_signature_list()
    assert signature["serving_default"]["inputs"] == ["my_input.1"]


def test_a_fixed_batch_of_another_size_is_refused(tmp_path):
    x = keras.Input(batch_shape=(2, None, 3), name="x")
    with pytest.raises(ValueError, match=r"\('x', \(2, None, 3\)\).*batch_size=1"):
        to_litert(keras.Model(x, keras_gated.LSTM(4)(x)), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_a_stateful_model_is_refused_with_the_way_out(tmp_path):
    x = keras.Input(batch_shape=(1, None, 3))
    model = keras.Model(x, layers.LSTM(4, stateful=True, name="keeps")(x))
    with pytest.raises(ValueError, match=r"\['keeps'\].*stateful=False.*`states=True`"):
        to_litert(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
