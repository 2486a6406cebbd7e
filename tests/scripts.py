"""Runs the example scripts, each in a process of its own, as their users do."""

import json
import os
import pathlib
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(script, *arguments, cwd, env=None):
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def result(process):
    """Returns the JSON object of the last line that a script printed."""
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def sentiment(cell, cwd, data_dir):
    """Trains and exports a classifier that reads order and context."""
    options = ["--dataset", "toy_reviews", "--data-dir", data_dir, "--cell", cell, "--units", 32]
    options += ["--epochs", 3, "--batch-size", 32, "--buckets", 100_003]
    return result(run("sentiment.py", *options, cwd=cwd))


def characters(cwd, data_dir):
    options = ["--dataset", "toy_plays", "--data-dir", data_dir, "--cell", "gru", "--units", 64]
    return result(run("characters.py", *options, "--epochs", 2, "--batch-size", 16, cwd=cwd))
