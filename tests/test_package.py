"""The public surface and the README: what is promised is there and runs."""

import doctest
import pathlib
import re
import subprocess
import sys

import keras_gated

ROOT = pathlib.Path(__file__).parent.parent


def test_the_public_names_are_these():
    assert set(keras_gated.__all__) == {
        "SimpleRNN", "LSTM", "GRU", "SimpleRNNCell", "LSTMCell", "GRUCell", "Bidirectional",
        "get_state", "reset_state", "ResetState", "windows", "set_fused",
        "trace_gates", "gradient_flow", "find_units", "GradientFlowLogger",
        "export_model", "check_export",
        "from_keras", "to_keras", "from_torch", "to_torch", "from_onnx", "to_onnx", "to_litert",
    }  # fmt: skip
    assert all(getattr(keras_gated, name).__doc__ for name in keras_gated.__all__)


def test_importing_the_package_does_not_import_its_extras():
    script = (
        "import sys, keras\n"
        "before = set(sys.modules)\n"
        "import keras_gated\n"
        "extras = {'tensorflow_datasets', 'matplotlib', 'torch', 'onnx', 'ai_edge_litert'}\n"
        "found = extras & set(sys.modules) - before\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_python_examples_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    names = {}  # as of one who follows the README from top to bottom
    for block in blocks:
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, names, "README.md", "README.md", 0)
            assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0
        else:
            exec(compile(block, "README.md", "exec"), names)


def test_the_version_is_the_newest_of_the_changelog():
    [newest, *_] = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert keras_gated.__version__ == newest
