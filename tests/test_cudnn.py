"""The cuDNN path against the cell's own loop, with a stand-in for the one op that needs a GPU."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import FAMILIES, MASKS
from grids import product
from numpy.testing import assert_allclose
from stand_in import cudnn_stand_in
from test_fused import FEATURES, TIME, UNITS, big_mask, data, values_and_gradients

import keras_gated
from keras_gated.paths import cudnn
from keras_gated.serve.signatures import Signature

pytestmark = pytest.mark.usefixtures("short_turns")

FAMILIES = {name: FAMILIES[name] for name in ("lstm", "gru")}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def gpu(monkeypatch):
    calls = []

    def op(**arguments):
        calls.append(arguments["rnn_mode"])
        return cudnn_stand_in(**arguments)

    monkeypatch.setattr(cudnn, "_gpu", lambda: True)
    monkeypatch.setattr(tf.raw_ops, "CudnnRNNV3", op)
    return calls


def layer_of(family, x, **options):
    layer = family.make(UNITS, dtype="float64", return_state=True, **options)
    layer.build(x.shape)
    layer.set_weights(family.random_weights(FEATURES, UNITS)[: len(layer.weights)])
    return layer


OPTIONS = {
    "in order": {"return_sequences": True},
    "backwards": {"return_sequences": True, "go_backwards": True},
    "zero output": {
        "return_sequences": True, "go_backwards": True, "zero_output_for_mask": True
    },
    "no bias": {"return_sequences": False, "zero_output_for_mask": True, "use_bias": False},
    "last output": {"return_sequences": False},
}  # fmt: skip


@pytest.mark.parametrize(
    "family, mask_name, options", product(FAMILIES, MASKS, OPTIONS), indirect=["family"]
)
def test_values_and_gradients_equal_those_of_the_cell(family, mask_name, options, gpu):
    options = OPTIONS[options]
    mask = big_mask(mask_name)
    x, states, weigh = data(family, return_sequences=options["return_sequences"])
    results = [
        values_and_gradients(layer_of(family, x, **options, **path), x, mask, states, weigh, True)
        for path in ({"use_cudnn": True}, {"fused": False})
    ]
    assert len(gpu) == 1
    for a, b in zip(*results, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rows, time", [(0, TIME), (2, 0), (0, 0)])
@pytest.mark.parametrize("masked", [False, True])
def test_no_row_and_no_step_are_no_error(family, rows, time, masked, gpu):
    x = tf.zeros([rows, time, FEATURES], tf.float64)
    states = [tf.ones([rows, UNITS], tf.float64)] * family.states
    layer = layer_of(family, x, return_sequences=True, use_cudnn=True)
    mask = tf.ones([rows, time], tf.bool) if masked else None
    outputs, *finals = layer(x, initial_state=states, mask=mask)
    assert outputs.shape == (rows, time, UNITS)
    for state in finals if time == 0 else []:
        assert_allclose(state, np.ones((rows, UNITS)))


def test_nothing_leaks_from_masked_steps(family, gpu):
    x, states, weigh = data(family)
    mask = big_mask("gaps")
    spoilt = tf.where(mask[..., None], x, np.nan)
    layer = layer_of(family, x, return_sequences=True, use_cudnn=True)
    clean = values_and_gradients(layer, x, mask, states, weigh, False)
    for a, b in zip(
        values_and_gradients(layer, spoilt, mask, states, weigh, False), clean, strict=True
    ):
        assert_allclose(a, b, rtol=0, atol=1e-12)


def test_float16_runs_on_cudnn_and_options_it_lacks_do_not(family, gpu):
    x = tf.ones([2, 3, 2])
    family.make(3, dtype="mixed_float16", use_cudnn=True)(x)
    assert len(gpu) == 1
    family.make(3, use_cudnn=False)(x)
    family.make(3, fused=False)(x)
    family.make(3, activation="relu")(x)
    tf.function(family.make(3), jit_compile=True)(x)
    assert len(gpu) == 1
    with pytest.raises(ValueError, match=r"`use_cudnn=True` cannot be kept.*`activation='tanh'`"):
        family.make(3, activation="relu", use_cudnn=True)(x)


def test_what_is_exported_on_a_gpu_runs_without_one(family, gpu, tmp_path):
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, family.make(3)(inputs))
    spec = tf.TensorSpec((None, None, 2), name="x")
    gpu.clear()
    answer = Signature(lambda x: {"y": model(x)}, [spec])
    keras_gated.export_model(model, tmp_path, {"serving_default": answer})
    assert gpu == []


def test_without_a_gpu_true_says_so_and_auto_does_without(family):
    x = np.ones((2, 3, 2), "float32")
    with pytest.raises(
        ValueError, match=r"`use_cudnn=True` cannot be kept.*no GPU.*use_cudnn='auto'"
    ):
        family.make(3, use_cudnn=True)(x)
    family.make(3)(x)


def test_simple_rnn_has_no_such_argument():
    with pytest.raises(ValueError, match="use_cudnn"):
        keras_gated.SimpleRNN(3, use_cudnn="auto")
