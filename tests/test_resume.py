"""A training killed at any moment and started again ends as if nothing had happened."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
SCRIPTS = {
    "sentiment.py": (
        "test_loss",
        "--dataset toy_reviews --units 4 --epochs 3 --buckets 1009".split(),
    ),
    "characters.py": (
        "loss_nats",
        ["--dataset", "toy_plays", "--units", "16", "--epochs", "3", "--batch-size", "32"],
    ),
}


def start(script, cwd, data_dir, *options):
    command = [sys.executable, str(EXAMPLES / script), *SCRIPTS[script][1], *options]
    command += ["--data-dir", data_dir, "--name", "model", "--output", "exports"]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def wait_for(path, process):
    deadline = time.time() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.time() < deadline, f"{path} did not appear"
        time.sleep(0.002)


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_trainings_end_with_the_loss_of_an_uninterrupted_one(script, tmp_path, data_dir):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected = result(start(script, whole, data_dir))

    state = cut / "state"
    process = start(script, cut, data_dir, "--resume", "state")
    wait_for(state / "epoch-000001", process)  # in the second epoch
    kill(process)
    process = start(script, cut, data_dir, "--resume", "state")
    wait_for(state / "unfinished", process)  # while a state is being written
    kill(process)
    assert not (cut / "exports").exists()

    (state / "notes.txt").write_text("the user's own")
    process = start(script, cut, data_dir, "--resume", "state")
    received = result(process)
    loss = SCRIPTS[script][0]
    assert received[loss] == expected[loss]
    assert received["epochs"] == expected["epochs"]
    assert [p.name for p in (cut / "exports" / "model").iterdir()] == ["1"]
    assert [p.name for p in state.iterdir()] == ["notes.txt"]
    assert weights(whole) == weights(cut)  # to the bit


def weights(directory):
    """Every array of an export, in an order of its own: exports number them as they please."""
    file = tf.train.load_checkpoint(str(directory / "exports/model/1/variables/variables"))
    names = [name for name in file.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    assert names
    return sorted(np.asarray(file.get_tensor(name)).tobytes() for name in names)


def test_the_state_of_another_training_is_refused(tmp_path, data_dir):
    process = start("characters.py", tmp_path, data_dir, "--resume", "state")
    wait_for(tmp_path / "state" / "epoch-000000", process)
    kill(process)
    process = start("characters.py", tmp_path, data_dir, "--resume", "state", "--units", "8")
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "belongs to a training with another units" in err
    assert (tmp_path / "state" / "epoch-000000").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_exports_the_best_weights_and_the_training_can_go_on(script, tmp_path, data_dir):
    options = ["--epochs", "200", "--resume", "state"]
    process = start(script, tmp_path, data_dir, *options)
    wait_for(tmp_path / "state" / "epoch-000002", process)  # in the third epoch
    os.kill(process.pid, signal.SIGINT)
    assert result(process)["epochs"] == 3
    assert (tmp_path / "exports/model/1/saved_model.pb").exists()
    [folder] = (tmp_path / "logs" / "model").iterdir()
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + 3
    assert list(folder.glob("train/events*")) and list(folder.glob("validation/events*"))

    process = start(script, tmp_path, data_dir, *options)
    wait_for(tmp_path / "state" / "epoch-000003", process)  # it was the third that was cut short
    kill(process)
    assert [path.name for path in (tmp_path / "logs" / "model").iterdir()] == [folder.name]
    epochs = [row.split(",")[0] for row in (folder / "history.csv").read_text().splitlines()]
    assert epochs == ["epoch", "0", "1", "2"]
