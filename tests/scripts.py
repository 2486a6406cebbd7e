"""Runs the example scripts: in a process of its own, as their users do, or in this one."""

import contextlib
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(script, *arguments, cwd, env=None):
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def result(process):
    """Returns the JSON object of the last line that a script printed."""
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def said_here(script, *arguments, cwd="."):
    """Returns what a script prints in this process, which has imported all it needs already."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.chdir(cwd)
        patch.setattr("sys.argv", [script, *map(str, arguments)])
        importlib.import_module(script.removesuffix(".py")).main()
    return said.getvalue()


def demo(cwd, data_dir):
    """Runs `make demo` in a folder: all is installed already, but no data set is prepared."""
    for name in ("Makefile", "examples", "setup.cfg", "pyproject.toml"):
        (cwd / name).symlink_to(ROOT / name)
    (cwd / "examples.installed").touch()
    environment = {**os.environ, "TFDS_DATA_DIR": data_dir}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = ["make", "demo", "VENV=.", f"RUN={sys.executable}"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def sentiment(cell, cwd, data_dir):
    """Trains and exports a classifier that reads order and context and counts n-grams."""
    options = ["--dataset", "toy_reviews", "--data-dir", data_dir, "--cell", cell, "--units", 32]
    options += ["--epochs", 3, "--batch-size", 32, "--buckets", 100_003]
    return result(run("sentiment.py", *options, cwd=cwd))


def characters(cwd, data_dir):
    """Trains and exports a writer of plays."""
    options = ["--dataset", "toy_plays", "--data-dir", data_dir, "--units", 64, "--epochs", 2]
    options += ["--batch-size", 16, "--networks", 1]
    return json.loads(said_here("characters.py", *options, cwd=cwd).splitlines()[-1])


def assert_answered_in_a_new_process(folder, x, answers):
    """Raises unless the `.keras` files of a folder, loaded anew, give these answers by name."""
    np.savez(folder / "data.npz", x=x, **answers)
    script = (
        "import keras, keras_gated, numpy as np\n"
        "data = dict(np.load('data.npz'))\n"
        "x = data.pop('x')\n"
        "for name, expected in data.items():\n"
        "    y = keras.saving.load_model(f'{name}.keras')(x)\n"
        "    y = keras.ops.convert_to_numpy(y)\n"
        "    np.testing.assert_allclose(y, expected, atol=1e-6, err_msg=name)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
