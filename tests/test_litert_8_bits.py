"""LiteRT files of 8 bits, and such that read a sequence window by window."""

import keras
import numpy as np
import pytest
from families import ALL
from grids import product
from keras import layers
from litert_files import File, read, set_random, stored

import keras_gated
from keras_gated import to_litert
from keras_gated.convert.litert.operations import MICROCONTROLLERS

pytest.importorskip("ai_edge_litert")

LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
RNG = np.random.default_rng(0)
TYPICAL = [RNG.normal(size=(1, 12, 5)).astype("float32") for _ in range(40)]


def sequences(*recurrent, features=5):
    model = keras.Sequential([keras.Input((None, features), name="x"), *recurrent])
    model.add(layers.Dense(2, name="y"))
    return set_random(model)


def test_weights_of_8_bits_leave_one_operation_that_begins_anew(tmp_path):
    model = sequences(layers.LSTM(64, name="lstm"), features=16)
    whole = to_litert(model, tmp_path / "whole.tflite")
    written = to_litert(model, tmp_path / "model.tflite", quantize="dynamic")
    assert written.fused == ("lstm",) and written.size < 0.4 * whole.size
    file = File(tmp_path / "model.tflite")
    assert file.operations()[LSTM] == 1
    file.resize((1, 9, 16))
    examples = RNG.normal(size=(3, 1, 9, 16)).astype("float32")
    [first] = file(examples[0])
    for given in (examples[1], examples[2], examples[0]):
        [received] = file(given)
        np.testing.assert_allclose(received, model(given), atol=0.05)
    np.testing.assert_array_equal(received, first)


def test_an_lstm_of_8_bits_throughout_is_one_operation_of_a_microcontroller(tmp_path):
    model = sequences(layers.Bidirectional(layers.LSTM(8, return_sequences=True)), layers.LSTM(6))
    options = {"quantize": "int8", "representative": TYPICAL}
    written = to_litert(model, tmp_path / "model.tflite", **options)
    file = File(tmp_path / "model.tflite")
    assert len(written.fused) == file.operations()[LSTM] == 3 and not written.not_fused
    assert set(file.operations()) <= MICROCONTROLLERS and not written.not_on_microcontrollers
    [given], [made] = file.inputs, file.outputs
    assert given["dtype"] == made["dtype"] == np.int8 and tuple(given["shape"]) == (1, 12, 5)
    file.resize((1, 12, 5))
    answers = []
    for x in [*TYPICAL[:5], TYPICAL[0]]:
        file.interpreter.reset_all_variables()
        answers.append(read(file(stored(x, given))[0], made))
        np.testing.assert_allclose(answers[-1], model(x), atol=max(written.difference, 0.01))
    np.testing.assert_array_equal(answers[0], answers[-1])
    assert np.std(answers[:5]) > 3 * written.difference > 0
    # As the docstring warns: without a reset it goes on from where it ended.
    assert np.any(read(file(stored(TYPICAL[0], given))[0], made) != answers[0])


@pytest.mark.parametrize("merged", [
    lambda x, h: layers.Concatenate()([x, h]),
    lambda x, h: layers.Add()([layers.Dense(6)(x), h]),
    lambda x, h: layers.Bidirectional(layers.LSTM(6))(h),
])  # fmt: skip
def test_an_lstm_of_8_bits_answers_right_beside_other_numbers(merged, tmp_path):
    """LiteRT's converter and kernel disagree about the scales of outputs and of small memories."""
    x = keras.Input((None, 5))
    h = layers.LSTM(6, return_sequences=True)(layers.Dense(5)(x))
    model = set_random(keras.Model(x, layers.Dense(2)(merged(layers.Dense(6)(x), h))))
    written = to_litert(model, tmp_path / "8.tflite", quantize="int8", representative=TYPICAL)
    file = File(tmp_path / "8.tflite")
    assert file.operations()[LSTM] == len(written.fused) and not written.not_on_microcontrollers
    [given], [made] = file.inputs, file.outputs
    file.resize((1, 12, 5))
    received = []
    for x in TYPICAL:
        file.interpreter.reset_all_variables()
        received.append(read(file(stored(x, given))[0], made))
    expected = [np.asarray(model(x)) for x in TYPICAL]
    np.testing.assert_allclose(received, expected, atol=0.04 * np.max(np.abs(expected)))


def test_an_lstm_that_the_converter_leaves_in_32_bits_is_written(tmp_path):
    """As one of two that read the same input, if a merged output gives the input another scale."""
    x = keras.Input((None, 5))
    merged = layers.Concatenate()([layers.LSTM(5, return_sequences=True)(x), x])
    model = keras.Model(x, [merged, layers.LSTM(4, return_sequences=True)(x)])
    options = {"quantize": "int8", "representative": TYPICAL}
    assert to_litert(set_random(model), tmp_path / "8.tflite", **options).difference < 0.2


def test_an_lstm_of_8_bits_may_give_zeros_alone(tmp_path):
    """LiteRT's converter makes no scale of its outputs then. With weights of 0, they are zeros."""
    model = sequences(layers.LSTM(6))
    model.layers[0].set_weights([np.zeros_like(w) for w in model.layers[0].get_weights()])
    options = {"quantize": "int8", "representative": TYPICAL}
    written = to_litert(model, tmp_path / "model.tflite", **options)
    assert written.fused and written.difference < 0.01


@pytest.mark.sampled
@pytest.mark.parametrize("layer, given, reason", [
    (layers.GRU(6, name="layer"), {}, "an LSTM alone"),
    (layers.LSTM(6, name="layer"), {"fused": False}, "fused=False"),
])  # fmt: skip
def test_other_recurrent_layers_of_8_bits_are_written_out(layer, given, reason, tmp_path):
    model = sequences(layer)
    options = {"quantize": "int8", "representative": TYPICAL, **given}
    written = to_litert(model, tmp_path / "model.tflite", **options)
    file = File(tmp_path / "model.tflite")
    assert reason in written.not_fused["layer"] and not written.fused
    assert {"WHILE", LSTM}.isdisjoint(file.operations())
    assert set(file.operations()) <= MICROCONTROLLERS
    file.resize((1, 12, 5))
    for x in TYPICAL[:5]:  # without a reset
        answer = read(file(stored(x, file.inputs[0]))[0], file.outputs[0])
        np.testing.assert_allclose(answer, model(x), atol=0.05)


def test_ids_stay_whole_numbers_and_what_a_microcontroller_lacks_is_named(tmp_path):
    ids = keras.Input((7,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(ids)
    model = set_random(keras.Model(ids, layers.Dense(2)(keras_gated.LSTM(6, name="lstm")(x))))
    typical = [RNG.integers(0, 20, (1, 7)) for _ in range(30)]
    options = {"quantize": "int8", "representative": typical}
    written = to_litert(model, tmp_path / "model.tflite", **options)
    file = File(tmp_path / "model.tflite")
    assert file.inputs[0]["dtype"] == np.int32 and "mask" in written.not_fused["lstm"]
    lacking = set(file.operations()) - MICROCONTROLLERS
    assert lacking and set(written.not_on_microcontrollers) == lacking
    file.resize((1, 7))
    answer = read(file(typical[0])[0], file.outputs[0])
    np.testing.assert_allclose(answer, model(typical[0]), atol=0.05)


def of_two_families():
    return sequences(
        layers.LSTM(6, return_sequences=True, name="l"),
        layers.GRU(7, return_sequences=True, name="g"),
    )


NAMES = ["l_hidden", "l_memory", "g_hidden"]


@pytest.mark.sampled
@pytest.mark.parametrize("steps", [None, 4])
def test_windows_with_states_are_the_whole_sequence(steps, tmp_path):
    model, window = of_two_families(), steps or 1
    to_litert(model, tmp_path / "model.tflite", states=True, steps=steps, batch_size=2)
    file, x = File(tmp_path / "model.tflite"), RNG.normal(size=(2, 12, 5)).astype("float32")
    signature = file.interpreter.get_signature_list()["serving_default"]
    assert sorted(["x", *NAMES]) == signature["inputs"]
    assert sorted(["y", *NAMES]) == signature["outputs"]
    assert "WHILE" not in file.operations()
    file.resize((2, window, 5), (2, 6), (2, 6), (2, 7))
    for given in (x, -x):
        states, received = [np.zeros((2, n)) for n in (6, 6, 7)], []
        for start in range(0, 12, window):
            answer, *states = file(given[:, start : start + window], *states)
            received.append(answer)
        np.testing.assert_allclose(np.concatenate(received, 1), model(given), atol=2e-6)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name, quantize", product(ALL, (None, "int8")))
def test_every_family_is_read_in_windows_and_in_8_bits(name, quantize, tmp_path):
    model = sequences(ALL[name].make(6, return_sequences=True, name="r"))
    options = {"quantize": quantize, "representative": TYPICAL if quantize else None}
    to_litert(model, tmp_path / "model.tflite", states=True, steps=3, **options)
    file, given = File(tmp_path / "model.tflite"), TYPICAL[0]
    widths = [d["shape"][1] for d in file.inputs[1:]]
    file.resize((1, 3, 5), *((1, n) for n in widths))
    states, received = [np.zeros((1, n)) for n in widths], []
    if quantize:
        given = stored(given, file.inputs[0])
        states = [stored(s, d) for s, d in zip(states, file.inputs[1:], strict=True)]
    for start in range(0, 12, 3):
        answer, *states = file(given[:, start : start + 3], *states)
        received.append(read(answer, file.outputs[0]) if quantize else answer)
    tolerance = 0.15 if quantize else 2e-6
    np.testing.assert_allclose(np.concatenate(received, 1), model(TYPICAL[0]), atol=tolerance)


def test_masked_steps_of_a_window_change_no_state(tmp_path):
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, 3, mask_zero=True)(ids)
    model = set_random(keras.Model(ids, layers.LSTM(4, name="l")(x)))
    to_litert(model, tmp_path / "model.tflite", states=True, steps=2, batch_size=3)
    file = File(tmp_path / "model.tflite")
    file.resize((3, 2), (3, 4), (3, 4))
    given = np.array([[1, 2, 0, 3, 0, 5], [0, 0, 4, 0, 0, 6], [7, 0, 0, 0, 0, 8]])
    states = [np.zeros((3, 4))] * 2
    for window in range(3):
        answer, *states = file(given[:, 2 * window : 2 * window + 2], *states)
    np.testing.assert_allclose(answer, model(given), atol=1e-6)


def test_a_unit_that_counts_far_leaves_the_others_their_8_bits(tmp_path):
    layer = layers.LSTM(6, return_sequences=True)
    model = sequences(layer)
    kernel, recurrent, bias = (w.reshape(-1, 4, 6) for w in layer.get_weights())
    kernel[..., 0] = recurrent[..., 0] = recurrent[0] = 0
    bias[0, :, 0] = 6, 3.9, 6, 6  # its memory goes to 40, whatever is read
    layer.set_weights([kernel.reshape(-1, 24), recurrent.reshape(-1, 24), bias.reshape(24)])
    typical = [RNG.normal(size=(1, 100, 5)).astype("float32") for _ in range(4)]
    options = {"quantize": "int8", "representative": typical}
    assert to_litert(model, tmp_path / "a.tflite", states=True, **options).difference < 0.04


@pytest.mark.slow
def test_states_of_8_bits_go_in_as_they_came_out(tmp_path):
    model = of_two_families()
    options = {"quantize": "int8", "representative": TYPICAL, "states": True}
    written = to_litert(model, tmp_path / "model.tflite", **options)
    file = File(tmp_path / "model.tflite")
    assert set(file.operations()) <= MICROCONTROLLERS and not written.not_on_microcontrollers
    for before, after in zip(file.inputs[1:], file.outputs[1:], strict=True):
        assert before["dtype"] == after["dtype"] == np.int8
        np.testing.assert_allclose(before["quantization"], after["quantization"], rtol=1e-5)
    file.resize((1, 1, 5), (1, 6), (1, 6), (1, 7))
    for given in TYPICAL[:3]:
        zeros = zip((6, 6, 7), file.inputs[1:], strict=True)
        states, received = [stored(np.zeros((1, n)), d) for n, d in zeros], []
        for step in range(12):
            answer, *states = file(stored(given[:, [step]], file.inputs[0]), *states)
            received.append(read(answer, file.outputs[0]))
        np.testing.assert_allclose(np.concatenate(received, 1), model(given), atol=0.1)
        assert np.std(received) > 0.1


@pytest.mark.parametrize("options, message", [
    ({"int8": True}, r"`int8` is now called `quantize`: 'dynamic'"),
    ({"quantize": "int4"}, "must be None, 'dynamic' or 'int8'. Received: 'int4'"),
    ({"quantize": "int8"}, "`representative` must be given with"),
    ({"representative": TYPICAL}, "`representative` must be given with"),
    ({"quantize": "int8", "representative": lambda: TYPICAL}, "must be an iterable.*<function"),
    ({"quantize": "int8", "representative": []}, "must hold an input. Received: none"),
    ({"quantize": "int8", "representative": [TYPICAL[0][0]]}, r"\(1, None, 5\)\).*\(12, 5\)"),
    ({"quantize": "int8", "representative": [{"x": TYPICAL[0]}]}, "as the model is called with"),
    ({"quantize": "int8", "representative": TYPICAL, "batch_size": 2}, "of `batch_size` rows"),
    ({"quantize": "int8", "representative": TYPICAL, "steps": 5}, "as the file, 5. Received: 12"),
    ({"quantize": "int8", "representative": TYPICAL, "steps": 13, "states": True}, "or more, 13"),
    ({"states": "yes"}, "`states`"),
])  # fmt: skip
def test_a_refusal_says_why_and_leaves_no_file(options, message, tmp_path):
    with pytest.raises(ValueError, match=f"(?s)^to_litert: .*{message}"):
        to_litert(sequences(layers.LSTM(4)), tmp_path / "model.tflite", **options)
    assert not list(tmp_path.iterdir())


def growing():
    return keras_gated.SimpleRNN(
        5, activation="linear", kernel_initializer="ones", recurrent_initializer="identity"
    )


@pytest.mark.parametrize("recurrent, options, message", [
    ([layers.Conv1D(3, 2, padding="causal"), layers.LSTM(4)], {}, "looks at more than one step"),
    (
        [layers.Conv1D(3, 2, padding="causal"), layers.LSTM(4)],
        {"quantize": "int8", "representative": [np.ones((1, 4, 5))]},
        "looks at more than one step",
    ),
    (
        [layers.LSTM(4, return_sequences=True), layers.GlobalAveragePooling1D()],
        {"quantize": "dynamic"},
        "looks at more than one step",
    ),
    ([layers.Bidirectional(layers.LSTM(4))], {}, "reads the sequence from its end"),
    ([layers.GlobalAveragePooling1D()], {}, "holds no recurrent layer"),
    ([growing()], {"quantize": "int8", "representative": [np.ones((1, 4, 5))]}, "go on growing"),
])  # fmt: skip
def test_what_cannot_be_read_in_windows_is_refused(recurrent, options, message, tmp_path):
    model = keras.Sequential([keras.Input((None, 5)), *recurrent])
    with pytest.raises(ValueError, match=message):
        to_litert(model, tmp_path / "model.tflite", states=True, **options)
    fixed = keras.Sequential([keras.Input((4, 5)), layers.LSTM(4)])
    with pytest.raises(ValueError, match="unknown number of steps"):
        to_litert(fixed, tmp_path / "model.tflite", states=True)
    assert not list(tmp_path.iterdir())
