"""Exported models outside of Python: their warm-up requests get the recorded answers."""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import exported
import keras
import numpy as np
import pytest
import replay
import tensorflow as tf
from chunks import shorten_chunks

import keras_gated

HERE = pathlib.Path(__file__).parent


@functools.cache
def functional():
    x = keras.Input((None, 3), name="x")
    hidden = keras_gated.GRU(4, return_sequences=True, name="top")(x)
    model = keras.Model(x, keras.layers.Dense(2, name="out")(hidden))
    with pytest.MonkeyPatch.context() as patch:
        shorten_chunks(patch, 4)  # graphs load in half the time
        return keras_gated.export_model(
            model, tempfile.mkdtemp(), lengths=True, states=True, gates="top"
        )


@pytest.fixture(params=["sentiment", "characters", "functional"])
def version(request):
    if request.param == "functional":
        return functional()
    return getattr(exported, request.param)().version


def records(version):
    from tensorflow_serving.apis import prediction_log_pb2

    path = f"{version}/assets.extra/tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(path):
        yield prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log


def replayed(python, version, tmp_path):
    replay.write_descriptors(tmp_path / "descriptors")
    command = [python, HERE / "replay.py", version, tmp_path / "descriptors"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return int(found.stdout.split()[0])


def test_every_signature_has_warm_up_requests_with_answers(version):
    signatures = set(tf.saved_model.load(version).signatures)
    asked = [log.request.model_spec.signature_name for log in records(version)]
    if "generate" in signatures:  # which is the default one
        signatures.remove("serving_default")
    assert set(asked) == signatures
    assert all(log.response.outputs for log in records(version))
    assert len(asked) <= 1000


def test_an_export_is_written_without_tensorflow_serving_api(tmp_path, monkeypatch):
    x = keras.Input((None, 2), name="x")
    model = keras.Model(x, keras_gated.GRU(3, name="gru")(x))
    for name in [name for name in sys.modules if name.startswith("tensorflow_serving")]:
        monkeypatch.delitem(sys.modules, name)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow_serving", None)
        version = keras_gated.export_model(model, tmp_path / "model")
    [log] = records(version)
    given = tf.make_ndarray(log.request.inputs["x"])
    assert log.request.model_spec.name == "model"
    np.testing.assert_allclose(
        tf.make_ndarray(log.response.outputs["gru"]), model(given), atol=1e-6
    )


@pytest.mark.sampled
def test_the_c_library_answers_as_recorded_without_tensorflow_in_python(version, tmp_path):
    assert replayed(sys.executable, version, tmp_path) == len(list(records(version)))


def test_a_wrong_answer_would_be_noticed(tmp_path):
    from tensorflow_serving.apis import prediction_log_pb2

    shutil.copytree(functional(), tmp_path / "1")
    path = tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests"
    changed = prediction_log_pb2.PredictionLog()
    changed.predict_log.CopyFrom(next(iter(records(functional()))))
    out = changed.predict_log.response.outputs["out"]
    out.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(out) + 1e-3))
    with tf.io.TFRecordWriter(str(path)) as file:
        file.write(changed.SerializeToString())
    with pytest.raises(AssertionError, match="assert worst < 1e-5"):
        replayed(sys.executable, tmp_path / "1", tmp_path)


@pytest.fixture(scope="module")
def loader():
    """The C++ program, compiled."""
    if not shutil.which("g++"):
        pytest.skip("needs g++, to compile against the headers of the TensorFlow wheel")
    folder = pathlib.Path(tf.sysconfig.get_lib())
    program = pathlib.Path(tempfile.mkdtemp()) / "load_saved_model"
    options = (
        f"-O1 -std=c++17 -D_GLIBCXX_USE_CXX11_ABI=1 -DEIGEN_MAX_ALIGN_BYTES=64 -isystem "
        f"{folder / 'include'} {HERE / 'load_saved_model.cc'} -o {program} -L{folder} "
        "-Wl,--no-as-needed -l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2 "
        f"-Wl,-rpath,{folder}"
    )
    subprocess.run(["g++", *options.split()], check=True)
    return program


@pytest.mark.slow
def test_the_loader_of_the_server_answers_as_recorded(loader, version, tmp_path):
    def field(content):
        content = content if isinstance(content, bytes) else str(content).encode()
        return len(content).to_bytes(4, "little") + content

    def tensors(named):
        pairs = (field(name) + field(t.SerializeToString()) for name, t in named.items())
        return field(len(named)) + b"".join(pairs)

    files = []
    for number, log in enumerate(records(version)):
        files.append(tmp_path / str(number))
        named = tensors(log.request.inputs) + tensors(log.response.outputs)
        files[-1].write_bytes(field(log.request.model_spec.signature_name) + named)
    found = subprocess.run([loader, version, *files], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert int(found.stdout.split()[0]) == len(files)


@pytest.mark.skipif(
    "OLD_PYTHON" not in os.environ,
    reason="needs OLD_PYTHON, the Python of an environment with an older TensorFlow",
)
def test_an_older_tensorflow_answers_as_recorded(version, tmp_path):
    assert replayed(os.environ["OLD_PYTHON"], version, tmp_path) == len(list(records(version)))
