"""On Keras's other backends the layers run through Keras's own loop, with the same numbers.

Their legs run where the backend is installed, the contract's whole suite among them.
"""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from families import FAMILIES, mask_array

SCRIPT = """
import sys, keras, numpy as np, keras_gated
sys.path.insert(0, {tests!r})
from families import FAMILIES
assert keras.backend.backend() == {backend!r}
data = dict(np.load("data.npz"))
for name, family in FAMILIES.items():
    for masked in (False, True):
        layer = family.make(3, return_sequences=True, return_state=True)
        layer.build(data["x"].shape)
        layer.set_weights(family.random_weights(2, 3, dtype="float32"))
        outputs, *states = layer(data["x"], mask=data["mask"] if masked else None, training=True)
        got = keras.ops.convert_to_numpy(outputs)
        np.testing.assert_allclose(got, data[f"{{name}} {{masked}}"], atol=1e-5)
inputs = keras.Input((None, 2))
model = keras.Model(inputs, keras_gated.LSTM(4, dropout=0.1)(inputs))
model.compile("adam", "mse")
model.fit(data["x"], np.zeros((3, 4), "float32"), verbose=0)
"""


OF_TENSORFLOW = """
import keras, numpy as np, keras_gated
inputs = keras.Input((None, 2))
model = keras.Model(inputs, keras_gated.LSTM(3, return_sequences=True, name="reader")(inputs))
x = np.random.default_rng(0).normal(size=(4, 5, 2)).astype("float32")
memory = keras.ops.convert_to_numpy(keras_gated.trace_gates(model, x)["reader"]["memory"])
best = keras_gated.find_units(model, x, memory[..., 1])[0]
assert best.unit == 1 and best.correlation > 0.999, best  # the property is what this unit holds
uses = {
    "export_model": lambda: keras_gated.export_model(model, "served"),
    "gradient_flow": lambda: keras_gated.gradient_flow(model, x, x),
    "stream": lambda: keras_gated.stream(model),
    "to_litert": lambda: keras_gated.to_litert(model, "model.tflite"),
}
for name, use in uses.items():
    try:
        use()
    except ValueError as error:
        assert str(error).startswith(f"{name}: it needs Keras's TensorFlow backend. Rec"), error
    else:
        raise AssertionError(f"{name} said nothing")
"""


def runs(code, backend, folder):
    """Runs a program in a new process whose Keras has that backend; skips without the backend."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_outputs_are_the_same_layers_train_and_what_needs_tensorflow_says_so(backend, tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    data = {"x": x, "mask": mask_array("gaps")}
    for name, family in FAMILIES.items():
        for masked in (False, True):
            layer = family.make(3, return_sequences=True, fused=False)
            layer.build(x.shape)
            layer.set_weights(family.random_weights(2, 3, dtype="float32"))
            data[f"{name} {masked}"] = layer(x, mask=data["mask"] if masked else None)
    np.savez(tmp_path / "data.npz", **data)
    script = SCRIPT.format(tests=os.path.dirname(__file__), backend=backend)
    runs(script + OF_TENSORFLOW, backend, tmp_path)  # a process takes long to start
    assert os.listdir(tmp_path) == ["data.npz"]


@pytest.mark.slow
@pytest.mark.parametrize("grid", ["not long", pytest.param("long", marks=pytest.mark.long)])
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_contract_holds(backend, grid):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    here = os.path.dirname(__file__)
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"}
    suite = [os.path.join(here, name) for name in ("test_contract.py", "test_states.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", grid, "-p", "no:cacheprovider", *suite]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


WITHOUT_TENSORFLOW = """
import os, sys
sys.modules["tensorflow"] = None  # Python then finds no such module
import keras, numpy as np, keras_gated
x = np.ones((4, 5, 2), "float32")
for layer in (keras_gated.SimpleRNN, keras_gated.LSTM, keras_gated.GRU):
    inputs = keras.Input((None, 2))
    hidden = keras_gated.Bidirectional(layer(3, return_sequences=True, dropout=0.1))(inputs)
    model = keras.Model(inputs, layer(2, recurrent_dropout=0.1)(keras.layers.Masking()(hidden)))
    model.compile("adam", "mse")
    model.fit(x, np.ones((4, 2), "float32"), verbose=0)
    assert model.predict(x, verbose=0).shape == (4, 2)
    model.save("model.keras")
    keras.saving.load_model("model.keras")
    theirs = keras_gated.to_keras(model)
    assert keras_gated.trace_gates(model, x)
    keras_gated.from_keras(theirs)
uses = [lambda: getattr(keras_gated, name) for name in ("export_model", "gradient_flow")]
uses += [lambda: keras_gated.stream]
uses += [lambda: keras_gated.windows(x[0], x[0], batch_size=1, steps=2)]
uses += [lambda: keras_gated.from_keras("old")]
uses += [lambda: keras_gated.from_keras("old/1", architecture=theirs)]
uses += [lambda: keras_gated.to_litert(model, "model.tflite", steps=5)]
os.mkdir("old")
for name in ("saved_model.pb", "1.index"):  # a SavedModel and a checkpoint
    open(f"old/{name}", "w").close()
for use in uses:
    try:
        use()
    except ImportError as error:
        assert "needs TensorFlow" in str(error), error
    else:
        raise AssertionError("nothing was said")
assert not hasattr(keras_gated, "nothing_of_ours")
assert not [name for name in sys.modules if name.startswith("tensorflow.")]
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_tensorflow_need_not_be_installed(backend, tmp_path):
    runs(WITHOUT_TENSORFLOW, backend, tmp_path)
