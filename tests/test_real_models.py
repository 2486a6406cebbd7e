"""Trained models of others, as their packages ship them: skipped where a package is missing.

    pip install --no-deps resemblyzer g2p-en dgaintel textgenrnn silero-vad

No code of these packages is run; their files are read alone.
"""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
from keras import ops
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import from_keras, from_torch


def file_of(package, path):
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"the package {package} is not installed")
    [folder] = found.submodule_search_locations
    return pathlib.Path(folder, path)


def test_dgaintel_a_keras_2_2_file_with_a_convolution():
    path = file_of("dgaintel", "domain_classifier_model.h5")
    theirs = pytest.importorskip("tf_keras").models.load_model(path)
    ours = from_keras(path)
    ids = np.random.default_rng(0).integers(0, 39, (8, 82))
    assert type(ours.get_layer("lstm_4")) is keras_gated.LSTM
    expected = theirs.predict(ids, verbose=0)
    assert np.ptp(expected) > 0.1
    assert_allclose(ours.predict(ids, verbose=0), expected, atol=1e-5)


def attention(layer_class, sums, exp):
    class AttentionWeightedAverage(layer_class):
        def build(self, shape):
            self.W = self.add_weight(shape=(shape[-1], 1), name=f"{self.name}_W")

        def call(self, x):
            weights = exp(x @ self.W)
            return sums(x * weights, axis=1) / sums(weights, axis=1)

    return AttentionWeightedAverage


def textgenrnn(module, lstm, average, **options):
    """As its `model.py` builds it for the file it ships."""
    x = embedded = module.layers.Embedding(465, 100, name="embedding")(
        ids := module.layers.Input((40,))
    )
    outputs = [embedded]
    for number in (1, 2):
        x = lstm(128, return_sequences=True, name=f"rnn_{number}", **options)(x)
        outputs.append(x)
    x = average(name="attention")(module.layers.Concatenate(name="rnn_concat")(outputs))
    end = module.layers.Dense(465, activation="softmax", name="output")
    return module.Model(ids, end(x))


def test_textgenrnn_weights_of_cudnn_with_the_architecture_of_its_code():
    path = file_of("textgenrnn", "textgenrnn_weights.hdf5")
    k2, tf = pytest.importorskip("tf_keras"), pytest.importorskip("tensorflow")
    average = attention(k2.layers.Layer, tf.reduce_sum, tf.exp)
    theirs = textgenrnn(k2, k2.layers.LSTM, average)
    theirs.load_weights(path)
    average = attention(keras.layers.Layer, ops.sum, ops.exp)
    ours = from_keras(path, architecture=textgenrnn(keras, keras_gated.LSTM, average))
    ids = np.random.default_rng(0).integers(0, 465, (4, 40))
    expected = theirs.predict(ids, verbose=0)
    assert expected.max() > 0.1
    assert_allclose(ours.predict(ids, verbose=0), expected, atol=1e-4)


def test_resemblyzer_a_checkpoint_with_an_lstm_of_three_layers():
    torch = pytest.importorskip("torch")
    path = file_of("resemblyzer", "pretrained.pt")
    theirs = torch.nn.LSTM(40, 256, 3, batch_first=True)
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    theirs.load_state_dict(
        {n.removeprefix("lstm."): v for n, v in state.items() if n.startswith("lstm.")}
    )
    ours = from_torch(path, check=True)
    x = np.random.default_rng(0).normal(size=(2, 30, 40)).astype("float32")
    expected = theirs(torch.from_numpy(x))[0].detach().numpy()
    assert_allclose(ours(x), expected, atol=1e-5)


@pytest.mark.parametrize("part", ["enc_", "dec_"])
def test_g2p_en_arrays_of_two_grus_under_short_names(part):
    path = file_of("g2p_en", "checkpoint20.npz")
    file = np.load(path)
    W, U, b, c = (file[f"{part}{n}"] for n in ("w_ih", "w_hh", "b_ih", "b_hh"))
    x = np.random.default_rng(0).normal(size=(2, 9, W.shape[1])).astype("float32")
    h, expected = np.zeros((2, U.shape[1]), "float32"), []
    for step in range(9):  # as its `grucell` computes it
        (xr, xz, xn), (hr, hz, hn) = (
            np.split(a, 3, -1) for a in (x[:, step] @ W.T + b, h @ U.T + c)
        )
        r, z = (1 / (1 + np.exp(-a)) for a in (xr + hr, xz + hz))
        h = (1 - z) * np.tanh(xn + r * hn) + z * h
        expected.append(h)
    ours = from_torch(path, prefix=part)
    assert type(ours) is keras_gated.GRU
    assert_allclose(ours(x), np.stack(expected, 1), atol=1e-5)


def steps_of(cell, x):
    state, found = (cell.weight_hh.new_zeros(2, 128),) * 2, []
    for step in x.swapaxes(0, 1):
        state = cell(cell.weight_hh.new_tensor(step), state)
        found.append(state[0].detach().numpy())
    return np.stack(found, 1)


def test_silero_vad_the_lstm_of_a_script_and_of_a_file():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 6, 128)).astype("float32")
    scripted = torch.jit.load(file_of("silero_vad", "data/silero_vad.jit"))
    with pytest.raises(ValueError, match=r"'_model\.decoder\.rnn\.', '_model_8k\.decoder\.rnn\.'"):
        from_torch(scripted)
    of_script = from_torch(scripted, prefix="_model.decoder.rnn.")
    assert_allclose(of_script(x), steps_of(scripted._model.decoder.rnn, x), atol=1e-5)
    safetensors = pytest.importorskip("safetensors.torch")
    path = file_of("silero_vad", "data/silero_vad_16k.safetensors")
    state = safetensors.load_file(path)
    [prefix] = [n.removesuffix("weight_hh") for n in state if n.endswith("weight_hh")]
    cell = torch.nn.LSTMCell(128, 128)
    cell.load_state_dict({n: state[prefix + n] for n in cell.state_dict()})
    assert_allclose(from_torch(path)(x), steps_of(cell, x), atol=1e-5)


def fixed(path, **sizes):
    """Returns a graph with a constant sampling rate and inputs of known sizes."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    rate = onnx.numpy_helper.from_array(np.array(16000), "sr")
    model.graph.initializer.append(rate)
    for declared in model.graph.input:
        for axis, size in enumerate(sizes.get(declared.name, ())):
            declared.type.tensor_type.shape.dim[axis].dim_value = size
    return model


@pytest.mark.parametrize("name", ["silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence"])
def test_silero_vad_whole_graphs_with_a_branch_a_convolution_and_states(name):
    runtime = pytest.importorskip("onnxruntime")
    path = file_of("silero_vad", f"data/{name}.onnx")
    if name == "silero_vad_16k_sequence":
        graph = pytest.importorskip("onnx").load(path)
        shapes = {"input": (5, 576), "h": (1, 1, 128), "c": (1, 1, 128)}
    else:
        with pytest.raises(ValueError, match=r"'If_0'|Give the inputs of the graph fixed sizes"):
            keras_gated.from_onnx(path)
        shapes = {"input": (1, 576), "state": (2, 1, 128)}
        graph = fixed(path, **shapes)
    model = keras_gated.from_onnx(graph, check=False)
    rng = np.random.default_rng(0)
    given = {n: rng.normal(0, 0.3, shape).astype("float32") for n, shape in shapes.items()}
    session = runtime.InferenceSession(path)
    asked = {i.name: given.get(i.name, np.array(16000)) for i in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(names, asked), strict=True))
    received = model([given[tensor.name] for tensor in model.inputs])
    for output, answer in received.items():
        assert_allclose(answer, expected[output], atol=1e-5)
    layer = keras_gated.from_onnx(path, node=0, check=True)
    assert type(layer) is keras_gated.LSTM
