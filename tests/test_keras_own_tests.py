"""The tests of Keras itself, from its wheel, pass with our classes in place of its own."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MODULES = (
    "simple_rnn", "lstm", "gru", "rnn", "stacked_rnn_cells", "bidirectional", "time_distributed",
)  # fmt: skip
# Cases in which we differ on purpose, and why. There is none.
DIFFERENT = {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules, least_passed, least_built",
    [(["gru"], 9, 30), pytest.param(MODULES, 60, 100, marks=pytest.mark.long)],
)
def test_every_case_passes(modules, least_passed, least_built, tmp_path):
    here = str(pathlib.Path(__file__).parent)
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path)]
    command += ["-p", "in_place_of_keras", "-p", "no:cacheprovider", "--pyargs"]
    command += [f"keras.src.layers.rnn.{name}_test" for name in modules]
    command += [f"--deselect={case}" for case in DIFFERENT]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, str(ROOT)])}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= least_passed
    assert int(re.search(r"built (\d+) cells of keras_gated", done.stdout)[1]) >= least_built
