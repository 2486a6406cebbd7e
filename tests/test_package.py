"""The public surface and the files of a release: what is promised is there."""

import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import pytest

import keras_gated

ROOT = pathlib.Path(__file__).parent.parent


def test_the_public_names_are_these():
    assert set(keras_gated.__all__) == {
        "SimpleRNN", "LSTM", "GRU", "SimpleRNNCell", "LSTMCell", "GRUCell", "Bidirectional",
        "PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "LayerNormGRU", "MGU", "MinGRU", "MinLSTM",
        "MogrifierLSTM", "PeepholeLSTMCell", "CoupledLSTMCell", "LayerNormLSTMCell",
        "LayerNormGRUCell", "MGUCell", "MinGRUCell", "MinLSTMCell", "MogrifierLSTMCell",
        "RNN", "GatedCell", "product", "hard_sigmoid", "get_state", "reset_state", "ResetState",
        "windows", "set_fused", "trace_gates", "gradient_flow", "find_units", "GradientFlowLogger",
        "export_model", "check_export", "stream",
        "from_keras", "to_keras", "from_torch", "to_torch", "from_onnx", "to_onnx", "to_litert",
    }  # fmt: skip
    assert all(getattr(keras_gated, name).__doc__ for name in keras_gated.__all__)


@pytest.mark.slow
def test_importing_the_package_registers_what_saved_models_name_and_imports_no_extra():
    names = "clean NGrams Bidirectional LSTM GRU SimpleRNN LSTMCell GRUCell SimpleRNNCell"
    names += " HardSigmoid"
    extras = "tensorflow_datasets matplotlib torch tf_keras onnx ai_edge_litert"
    script = (
        "import sys, keras\n"
        "before = set(sys.modules)\n"
        "import keras_gated\n"
        f"found = {set(extras.split())} & set(sys.modules) - before\n"
        "assert not found, found\n"
        f"for name in {names.split()}:\n"
        "    assert keras.saving.get_registered_object(f'keras_gated>{name}'), name\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_source_distribution_holds_what_its_tests_read(tmp_path):
    unread = shutil.ignore_patterns("__pycache__", "*.egg-info")
    folders = [".ci", "docs", "examples", "keras_gated", "notebooks", "tests"]
    folders += [f"saved_models/{name}" for name in ("sentiment", "shakespeare", "kubernetes")]
    for folder in folders:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=unread)
    files = "CHANGELOG.md CONTRIBUTING.md README.md RELEASING.md SECURITY.md CITATION.cff".split()
    files += "LICENSE MANIFEST.in Makefile mkdocs.yml pyproject.toml setup.cfg".split()
    for path in [*map(ROOT.joinpath, files), *ROOT.glob("saved_models/*.*")]:
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    read = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    trained = tmp_path / "saved_models" / "mine" / "1" / "saved_model.pb"
    trained.parent.mkdir(parents=True)
    trained.touch()

    build = "from setuptools import build_meta; build_meta.build_sdist('built')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    [built] = tmp_path.glob("built/*.tar.gz")
    with tarfile.open(built) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert read - held == set() and "saved_models/mine/1/saved_model.pb" not in held


def test_the_version_is_the_newest_of_the_changelog():
    [newest, *_] = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    [cited] = re.findall(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert keras_gated.__version__ == newest == cited


@pytest.mark.slow  # Python compiles all packages without docstrings, once
def test_the_layers_exist_without_docstrings():
    made = "import keras_gated; keras_gated.LSTM(2), keras_gated.MGUCell(2)"
    subprocess.run([sys.executable, "-OO", "-c", made], check=True)
