"""ONNX with weights of 8 bits: onnxruntime answers, the model in float32 judges."""

import logging
import os

import keras
import numpy as np
import pytest
from families import NEW, set_random
from keras import layers

import keras_gated
from keras_gated import from_onnx, to_onnx
from keras_gated.convert import QuantizedONNX
from keras_gated.convert.onnx.check import session_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx_graphs import ask_onnxruntime  # noqa: E402

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

RNG = np.random.default_rng(0)
IDS = RNG.integers(1, 500, (6, 20)) * (RNG.random((6, 20)) < 0.8)
IDS[1] = 0


def classifier(*stack, mask_zero=True):
    ids = keras.Input((None,), dtype="int64", name="ids")
    x = layers.Embedding(500, 32, mask_zero=mask_zero)(ids)
    for layer in stack:
        x = layer(x)
    return set_random(keras.Model(ids, layers.Dense(2, name="y")(x)), 0.2)


@pytest.mark.sampled
@pytest.mark.parametrize("stack", [
    lambda: [keras_gated.LSTM(32)],
    lambda: [keras_gated.Bidirectional(keras_gated.LSTM(24, return_sequences=True))],
    lambda: [NEW["peephole_lstm"].make(32)],
    lambda: [NEW["coupled_lstm"].make(32, return_sequences=True, go_backwards=True)],
    lambda: [layers.LSTM(32)],
], ids=["LSTM", "both directions", "peepholes", "coupled, backwards", "of Keras"])  # fmt: skip
def test_an_lstm_is_one_node_of_8_bits_under_any_mask(stack, tmp_path):
    model = classifier(*stack())
    whole = to_onnx(model, tmp_path / "32.onnx")
    written = to_onnx(model, tmp_path / "8.onnx", quantize="int8", representative=[IDS[:2], IDS])
    assert isinstance(whole, str) and isinstance(written, QuantizedONNX)
    assert written.operations["DynamicQuantizeLSTM"] == 1 and "LSTM" not in written.operations
    assert written.not_quantized == {} and written.size == os.path.getsize(written.path)
    assert written.size < 0.4 * os.path.getsize(whole)
    # With several threads the answers of 8 bits are a little different ones.
    one_thread, differs = session_of(written.path), []
    for ids in (IDS[:2], IDS):
        [received], expected = one_thread.run(None, {"ids": ids}), np.asarray(model(ids))
        differs.append(np.abs(received - expected).max() / max(1, np.abs(expected).max()))
    assert 0 < max(differs) < 0.05
    assert written.difference == pytest.approx(max(differs), rel=0.01)


@pytest.mark.parametrize("layer, reason", [
    (lambda: keras_gated.GRU(8, name="told"), "has no GRU of 8 bits"),
    (lambda: keras_gated.SimpleRNN(8, name="told"), "has no RNN of 8 bits"),
])  # fmt: skip
def test_what_stays_in_32_bits_is_named(layer, reason, tmp_path):
    model = classifier(layers.Conv1D(32, 3, padding="same", name="window"), layer())
    written = to_onnx(model, tmp_path / "8.onnx", quantize="int8")
    assert {*written.not_quantized} == {"told", "window"}
    assert reason in written.not_quantized["told"]
    assert written.operations["MatMulInteger"] == 1 and written.operations["Conv"] == 1
    [received] = ask_onnxruntime(written.path, {"ids": IDS})
    np.testing.assert_allclose(received, model(IDS), atol=0.05)
    assert written.difference < 0.05  # of random inputs


def test_nothing_to_quantise_is_refused_with_the_way_out_and_leaves_no_file(tmp_path):
    x = keras.Input((None, 3))
    model = keras.Model(x, keras_gated.GRU(4, name="told")(x))
    with pytest.raises(ValueError, match=r"no weights.*'told': onnxruntime has no GRU.*to_litert"):
        to_onnx(model, tmp_path / "8.onnx", quantize="int8")
    for given, message in (
        ({"quantize": "dynamic"}, "`quantize` must be None or 'int8'. Received: 'dynamic'"),
        ({"representative": [IDS]}, "`representative` is for `quantize='int8'`"),
        ({"quantize": "int8", "representative": 3}, "to_onnx: .*must be an iterable.*Received: 3"),
        ({"quantize": "int8", "representative": []}, "to_onnx: .*Received: none"),
        ({"quantize": "int8", "representative": [IDS[0]]}, r"\(None, None, 3\)\).*\(20,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            to_onnx(model, tmp_path / "8.onnx", **given)
    assert not [*tmp_path.iterdir()]


def test_lengths_and_states_go_with_8_bits(tmp_path, caplog):
    model = classifier(keras_gated.LSTM(32, return_sequences=True, name="l"), mask_zero=False)
    ids, lengths = IDS + 1, np.array([20, 3, 8, 1, 20, 9], "int32")
    written = to_onnx(model, tmp_path / "a.onnx", quantize="int8", lengths=True)
    [received] = ask_onnxruntime(written.path, {"ids": ids, "lengths": lengths})
    for row, length in enumerate(lengths):
        expected = np.asarray(model(ids[row : row + 1, :length]))[0]
        np.testing.assert_allclose(received[row, :length], expected, atol=0.06)
    written = to_onnx(
        model, tmp_path / "b.onnx", quantize="int8", states=True, representative=[ids]
    )
    assert 0 < written.difference < 0.05
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING and r.name == "root"]


def test_a_file_of_8_bits_is_not_read_back(tmp_path):
    path = to_onnx(classifier(keras_gated.LSTM(32)), tmp_path / "8.onnx", quantize="int8").path
    with pytest.raises(ValueError, match="Of a quantised model, read the one before"):
        from_onnx(path)
