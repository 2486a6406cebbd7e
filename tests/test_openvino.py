"""OpenVINO reads what is exported, as a SavedModel and as ONNX, and answers as Keras does."""

import keras
import numpy as np
import pytest
from families import FAMILIES, NEW, set_random
from grids import product
from keras import layers
from numpy.testing import assert_allclose

import keras_gated

openvino = pytest.importorskip("openvino")

RNG = np.random.default_rng(0)
# Masked steps anywhere, a row that is whole, and one without a step that counts.
KEPT = np.array([[1, 0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0], [1] * 3 + [0] * 4, [1] * 7, [0] * 7])
IDS = RNG.integers(1, 20, (5, 7)) * KEPT
ALL = {**FAMILIES, **NEW}
# What is no node of ONNX is refused by `to_onnx` itself.
NO_NODE = {*NEW} - {"peephole_lstm", "coupled_lstm"}
# OpenVINO 2026.4 reads an LSTM node without its peepholes and its `input_forget`, without a word.
WRONG = {
    "peephole_lstm": "OpenVINO leaves out the peepholes of an LSTM node",
    "coupled_lstm": "OpenVINO leaves out `input_forget` of an LSTM node",
}


def model_of(name, mask_zero, small=False):
    """Returns a model of one family: all steps, both directions, the last step and its state."""
    ids = keras.Input((None,), dtype="int64", name="ids")
    x = layers.Embedding(20, 4, mask_zero=mask_zero)(ids)
    steps = ALL[name].make(5, return_sequences=True)(x)
    both = keras_gated.Bidirectional(ALL[name].make(3))(steps)
    last, *states = ALL[name].make(3, return_state=True, go_backwards=True)(x)
    parts = dict(zip("abcd", [steps, both, last, states[0]], strict=True))
    return set_random(keras.Model(ids, {"a": steps} if small else parts))


def assert_answers(read, model):
    compiled = openvino.Core().compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for ids in (IDS, IDS[2:4, :4], IDS[3:4, :1]):  # batch and time are free
        results = compiled({0: ids})
        for name, expected in model(ids).items():
            assert_allclose(results[name], expected, atol=1e-5)


@pytest.mark.sampled
@pytest.mark.parametrize("name, mask_zero", product(FAMILIES, (True, False)))
def test_onnx(name, mask_zero, tmp_path):
    model = model_of(name, mask_zero)
    assert_answers(keras_gated.to_onnx(model, tmp_path / "model.onnx", check=False), model)


@pytest.mark.sampled
@pytest.mark.parametrize("name, reason", WRONG.items())
def test_what_openvino_leaves_out_is_known(name, reason, tmp_path):
    """It fails once OpenVINO has mended it: the family then goes to those above."""
    model = model_of(name, mask_zero=False)
    path = keras_gated.to_onnx(model, tmp_path / "model.onnx", check=True)  # in onnxruntime
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_answers(path, model)
    assert "leaves out" in reason


def test_every_family_is_asked_as_onnx_or_known_to_be_none(tmp_path):
    for name in NO_NODE:
        with pytest.raises(ValueError, match="to_onnx: "):
            keras_gated.to_onnx(model_of(name, False), tmp_path / "model.onnx")
    assert {*ALL} == {*FAMILIES, *NO_NODE, *WRONG}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name, mask_zero", product(ALL, (True, False)))
def test_a_saved_model(name, mask_zero, tmp_path):
    model = model_of(name, mask_zero)
    assert_answers(openvino.convert_model(keras_gated.export_model(model, tmp_path)), model)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("how", ["export_model", "export"])
def test_a_masked_lstm_as_a_saved_model(how, tmp_path):
    model = model_of("lstm", mask_zero=True, small=True)
    if how == "export":
        model.export(tmp_path, verbose=False)
        path = str(tmp_path)
    else:
        path = keras_gated.export_model(model, tmp_path)
    assert_answers(openvino.convert_model(path), model)
