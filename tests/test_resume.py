"""A training killed at any moment and started again ends as if nothing had happened."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import training
from resume import Resume
from scripts import EXAMPLES, result

# The state alone, with a model of one number


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


class FileOperations:
    """Counts what happens to the files of a directory, and ends it all at one of them."""

    directory, left = None, 0

    def __call__(self, event, arguments):
        watched = event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
        if self.directory and watched and str(self.directory) in str(arguments[0]):
            self.left -= 1
            if self.left < 0:
                self.directory = None
                raise Killed


FILES = FileOperations()
sys.addaudithook(FILES)  # it cannot be removed, and so it is told when to listen


def trained(directory, epochs=2, settings=()):
    """Trains to the end, from the state in the directory; returns the weights' bytes."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(3), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    adam = keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5)
    model.compile(adam, "mse", run_eagerly=True)
    average = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    best = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
    resume = Resume(directory, dict(settings), model, best)
    model.fit(
        np.ones((4, 2)), np.ones((4, 1)), initial_epoch=resume.epoch, epochs=epochs, verbose=0,
        callbacks=[average, best, resume],
    )  # fmt: skip
    resume.finish()
    return [weight.tobytes() for weight in model.get_weights()]


@pytest.mark.slow
def test_a_kill_at_any_file_operation_changes_nothing_and_leaves_nothing(tmp_path):
    expected = trained(None)
    state, kills = tmp_path / "state", 0
    while True:
        FILES.directory, FILES.left = state, kills
        try:
            trained(state)
            break
        except Killed:
            kills += 1
        finally:
            FILES.directory = None
        assert trained(state) == expected, kills
        assert not state.exists(), (kills, list(state.rglob("*")))
    assert kills > 15


def test_the_state_of_another_training_is_refused_and_stays(tmp_path):
    (tmp_path / "state").mkdir()
    FILES.directory, FILES.left = tmp_path / "state", 11  # after the first state is whole
    with pytest.raises(Killed):
        trained(tmp_path / "state", settings={"units": 4, "name": "one"})
    with pytest.raises(SystemExit, match="belongs to a training with another units"):
        trained(tmp_path / "state", settings={"units": 8, "name": "two"})
    assert list((tmp_path / "state").glob("epoch-*/state.json"))
    trained(tmp_path / "state", settings={"units": 4, "name": "two"})  # its name is not trained


@pytest.mark.parametrize("file, damage", [
    ("state.json", b'{"epoch": 1, '), ("state.json", b"[]"), ("model.weights.h5", b"damaged"),
])  # fmt: skip
def test_a_damaged_state_is_named_with_the_way_out(file, damage, tmp_path):
    FILES.directory, FILES.left = tmp_path / "state", 11  # after the first state is whole
    with pytest.raises(Killed):
        trained(tmp_path / "state")
    for state in (tmp_path / "state").glob("epoch-*"):
        (state / file).write_bytes(damage)
    with pytest.raises(SystemExit, match=r"--resume .* cannot be read: .* Remove .*epoch-00000"):
        trained(tmp_path / "state")


def test_a_directory_where_another_program_keeps_its_state_is_refused(tmp_path):
    holds = f"import locks; locks.lock({str(tmp_path)!r}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holds], cwd=EXAMPLES, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(SystemExit, match="another training keeps its state there"):
            trained(tmp_path)
        other.kill()
    assert trained(tmp_path) == trained(None)


def test_ctrl_c_ends_a_training_after_the_step():
    class Presses(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            signal.raise_signal(signal.SIGINT)

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    before, interrupt = signal.getsignal(signal.SIGINT), training.Interrupt()
    history = model.fit(
        np.ones((4, 2)), np.ones((4, 1)), batch_size=1, epochs=3, verbose=0,
        callbacks=[interrupt, Presses()],
    )  # fmt: skip
    assert interrupt.came and history.epoch == [0] and model.optimizer.iterations == 1
    assert signal.getsignal(signal.SIGINT) is before


# The scripts

SCRIPTS = {
    "sentiment.py": ("test_loss", "--dataset toy_reviews --units 4 --buckets 1009"),
    "characters.py": ("loss_nats", "--dataset toy_plays --units 16 --batch-size 64 --networks 1"),
}

# Sends a signal to the script that it runs, as the state named by AT is about to appear.
SIGNALLED = """
import os, runpy, sys
def watch(event, arguments):
    if event == "os.rename" and os.path.basename(arguments[1]) == os.environ["AT"]:
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
sys.addaudithook(watch)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(script, cwd, data_dir, *options, signal=None, at=""):
    command = [sys.executable, "-c", SIGNALLED] if signal else [sys.executable]
    command += [str(EXAMPLES / script), *SCRIPTS[script][1].split(), "--epochs", "3"]
    command += ["--data-dir", data_dir, "--name", "model", "--output", "exports", *options]
    environment = {**os.environ, "AT": at, "SIGNAL": str(int(signal or 0))}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def history(folder):
    return [row.split(",")[0] for row in (folder / "history.csv").read_text().splitlines()]


@pytest.mark.slow  # `test_a_kill_at_any_file_operation` holds it for a small training
@pytest.mark.parametrize(
    "script", [pytest.param("sentiment.py", marks=pytest.mark.long), "characters.py"]
)
def test_interrupted_and_killed_trainings_end_as_an_uninterrupted_one(script, tmp_path, data_dir):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected = result(run(script, whole, data_dir))

    again = (script, cut, data_dir, "--resume", "state")
    interrupts = script == "sentiment.py"
    if interrupts:  # Ctrl-C in the second epoch exports the best weights. The scripts share this.
        interrupted = run(*again, signal=signal.SIGINT, at="epoch-000001")
        assert result(interrupted)["epochs"] == 2
        assert (cut / "exports/model/1/saved_model.pb").exists()

    # The training goes on with the epoch that was cut short, and is killed in the third.
    killed = run(*again, signal=signal.SIGKILL, at="epoch-000002")
    assert killed.returncode == -signal.SIGKILL
    assert ("Going on with epoch 2" in killed.stdout) == interrupts
    [logs] = (cut / "logs" / "model").iterdir()
    assert history(logs) == ["epoch", "0", "1"]
    assert list(logs.glob("train/events*")) and list(logs.glob("validation/events*"))

    (cut / "state" / "notes.txt").write_text("the user's own")
    resumed = run(*again)
    assert "Going on with epoch 2" in resumed.stdout
    received = result(resumed)
    loss = SCRIPTS[script][0]
    assert received[loss] == expected[loss]
    assert received["epochs"] == expected["epochs"] == 3
    assert history(logs) == ["epoch", "0", "1", "2"]
    assert [path.name for path in (cut / "logs" / "model").iterdir()] == [logs.name]
    exports = sorted((cut / "exports" / "model").iterdir())
    assert [path.name for path in exports] == (["1", "2"] if interrupts else ["1"])
    assert [p.name for p in (cut / "state").iterdir()] == ["notes.txt"]
    assert weights(whole / "exports/model/1") == weights(exports[-1])  # to the bit


def weights(version):
    """Every array of an export, in an order of its own: exports number them as they please."""
    file = tf.train.load_checkpoint(str(version / "variables/variables"))
    names = [name for name in file.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    assert names
    return sorted(np.asarray(file.get_tensor(name)).tobytes() for name in names)
