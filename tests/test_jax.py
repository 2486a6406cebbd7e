"""Keras on JAX: the loops of JAX are right, and a model trains on two processes as on one."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from cluster import free_ports
from numpy.testing import assert_allclose

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed"),
]
SCRIPT = str(pathlib.Path(__file__).parent / "data_parallel_jax.py")


def trained(processes, folder):
    """Returns what each process saved."""
    [port] = free_ports(1)
    started = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(processes), str(index), str(port), str(folder)],
            env={**os.environ, "KERAS_BACKEND": "jax"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]
    try:
        for process in started:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said[-3000:]
    finally:
        for process in started:
            process.kill()
    return [dict(np.load(folder / f"{processes}-{index}.npz")) for index in range(processes)]


def test_two_processes_train_as_one_with_the_same_global_batch_and_do_not_predict(tmp_path):
    [one], two = trained(1, tmp_path), trained(2, tmp_path)
    assert len(one) == 4 * (1 + 6) + 3  # of LSTM and GRU, masked and not: the loss, six weights
    for found in two:
        # Where this fails, Keras gathers the rows of all processes, and the guide is to say so.
        assert "spans non-addressable" in str(found.pop("refused"))
        assert found.keys() == one.keys()
        for name, expected in one.items():
            assert_allclose(found[name], expected, rtol=0, atol=1e-5, err_msg=name)
    saved = keras.saving.load_model(tmp_path / "2-1.keras")  # with this process's own backend
    answers = saved.predict(one["ids"], verbose=0)
    assert_allclose(answers, one["predicted"], rtol=0, atol=1e-5)


def test_the_loops_of_jax_give_what_keras_loop_gives_and_its_derivatives():
    script = pathlib.Path(__file__).parent / "jax_derivatives.py"
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
