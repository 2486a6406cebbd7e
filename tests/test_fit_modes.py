"""`fit` in every way that Keras compiles it, and on several devices: as with `fused=False`."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

import keras_gated

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's ways")
WAYS = {
    "as it is": {},
    "run_eagerly": {"run_eagerly": True},
    "steps_per_execution": {"steps_per_execution": 2},
    "jit_compile": {"jit_compile": True},
}
RNG = np.random.default_rng(0)
IDS = RNG.integers(1, 9, (12, 7)).astype("int32")
IDS[3:9, 4:] = IDS[9:, 2:] = 0
LABELS = RNG.normal(size=(12, 1)).astype("float32")


def fitted(fused, masked, **options):
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 3, mask_zero=masked, name="embedding")(ids)
    x = keras_gated.GRU(4, return_sequences=True, fused=fused, name="gru")(x)
    x = keras_gated.LSTM(4, go_backwards=True, fused=fused, name="lstm")(x)
    model = keras.Model(ids, keras.layers.Dense(1, name="dense")(x))
    model.set_weights([weights_of(w.shape) for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(0.1), "mse", **options)
    model.fit(IDS, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return [*model.get_weights(), model.predict(IDS, verbose=0)]


def weights_of(shape):
    return np.random.default_rng(sum(shape)).normal(0, 0.4, shape)


@pytest.mark.slow
@pytest.mark.parametrize("masked, ways", [(False, ["as it is", "jit_compile"]), (True, [*WAYS])])
def test_fit_learns_the_same_in_every_way_of_compiling(masked, ways):
    expected = fitted(False, masked)
    for way in ways:
        for ours, theirs in zip(fitted("auto", masked, **WAYS[way]), expected, strict=True):
            assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def translator(module):
    """A masked encoder whose states are those before the first step of a decoder."""
    source, target = (keras.Input((None,), dtype="int32") for _ in range(2))
    tables = [keras.layers.Embedding(9, 3, mask_zero=masked) for masked in (True, False)]
    _, *states = module.LSTM(4, return_state=True)(tables[0](source))
    outputs = module.LSTM(4, return_sequences=True)(tables[1](target), initial_state=states)
    model = keras.Model([source, target], keras.layers.Dense(1)(outputs))
    model.set_weights([weights_of(w.shape) for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit([IDS, IDS], IDS[..., None], batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


def test_an_encoder_with_a_mask_hands_its_states_to_a_decoder():
    for ours, theirs in zip(translator(keras_gated), translator(keras.layers), strict=True):
        assert_allclose(ours, theirs, rtol=0, atol=2e-6)


SCRIPT = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, numpy as np
from numpy.testing import assert_allclose
import keras_gated
from test_fit_modes import IDS, LABELS

def fitted(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        ids = keras.Input((None,), dtype="int32")
        x = keras.layers.Embedding(9, 3, mask_zero=True)(ids)
        model = keras.Model(ids, keras.layers.Dense(1)(keras_gated.LSTM(4)(x)))
        model.compile(keras.optimizers.SGD(0.1), "mse")
    data = tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(4)
    model.fit(data, epochs=2, verbose=0)
    return model.get_weights()

two = fitted(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
one = fitted(tf.distribute.get_strategy())
for a, b in zip(two, one, strict=True):
    assert_allclose(a, b, rtol=0, atol=2e-6)
"""


@pytest.mark.slow
def test_two_devices_learn_what_one_does(request):
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=request.path.parent, check=True)
