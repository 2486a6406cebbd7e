"""Continues a training that was killed."""

import json
import os
import pathlib
import shutil
import time
from zipfile import BadZipFile

import keras
import numpy as np
from locks import lock, release

# The options that do not change a training.
_ELSEWHERE = {"data_dir", "dynamic", "logs", "name", "output", "prompt", "resume"}


def trained_by(settings):
    """Returns the settings that a training depends on, of all options of a program."""
    return {name: value for name, value in settings.items() if name not in _ELSEWHERE}


class Resume(keras.callbacks.Callback):
    """Keeps a training's state, so that a killed training ends as if it had not been killed.

    Before an epoch begins, everything that it depends on is written: the weights, the optimizer,
    and the state of early stopping. One rename gives the complete state its name. So a kill at any
    moment leaves the state before or the state after. (Keras's `BackupAndRestore` writes the
    weights and the number of the epoch one after the other, and leaves out the state of other
    callbacks.) The random numbers of dropout are set anew at every epoch, from its number. The
    order of the data must depend on that number, too.

    If several workers train, the chief alone writes the state, and all read it: all workers must
    see the directory. A directory where another program of this machine keeps a state is refused.

    Place this callback after all others.

    Args:
        directory: The directory of the state. With None no state is kept.
        settings: The settings of the training, a dict. A state of other settings is refused.
        model: The compiled model; its state is restored here.
        stopping: The `EarlyStopping` callback of the same `fit`.

    Attributes:
        epoch: The epoch to begin with: `fit(initial_epoch=...)`.
        logs: The directory of the training's logs. The code that makes the logs sets it.
    """

    def __init__(self, directory, settings, model, stopping):
        super().__init__()
        self.directory = directory and pathlib.Path(directory)
        self.settings = trained_by(settings)
        self.stopping = stopping
        self.epoch, self.seconds, self._remembered, self.logs = 0, 0.0, None, None
        self._seeds = [
            (layer.seed_generator, int(layer.seed_generator.state.numpy()[0]))
            for layer in model._flatten_layers()
            if hasattr(layer, "seed_generator")
        ]
        self._start = time.time()
        self._strategy = model.distribute_strategy
        if self.directory and self._strategy.extended.should_checkpoint:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not lock(self.directory):
                raise SystemExit(
                    f"--resume {self.directory}: another training keeps its state there. Wait "
                    "until it has ended, or give another directory."
                )
        states = self._states() if self.directory else []
        if states:
            try:
                self._restore(model, states[-1])
            except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
                raise SystemExit(
                    f"--resume {self.directory}: the state there cannot be read: {error!r}. Remove "
                    f"{states[-1]} if it is damaged, or give another directory."
                ) from error

    def _restore(self, model, state):
        kept = json.loads((state / "state.json").read_text())
        if kept["settings"] != self.settings:
            different = sorted(k for k, v in self.settings.items() if kept["settings"].get(k) != v)
            raise SystemExit(
                f"--resume {self.directory}: the state there belongs to a training with another "
                f"{', '.join(different)}. Give the same options, or another directory."
            )
        with self._strategy.scope():
            model.optimizer.build(model.trainable_variables)
        model.load_weights(state / "model.weights.h5")
        self.epoch, self.seconds, self._remembered = kept["epoch"], kept["seconds"], kept
        self.logs = kept["logs"]
        if kept["best"] is not None:
            with np.load(state / "best.npz") as best:
                self._best_weights = [best[str(i)] for i in range(len(best.files))]
        print(f"Going on with epoch {self.epoch + 1}, from {state}", flush=True)

    def on_train_begin(self, logs=None):
        if self._remembered and self._remembered["best"] is not None:
            for name in ("best", "wait", "best_epoch"):
                setattr(self.stopping, name, self._remembered[name])
            self.stopping.best_weights = self._best_weights

    def on_epoch_begin(self, epoch, logs=None):
        for generator, seed in self._seeds:
            generator.state.assign([seed, epoch << 20])
        writes = self.directory and self._strategy.extended.should_checkpoint
        if writes and not self._path(epoch).exists():
            self._save(epoch)

    def _path(self, epoch):
        return self.directory / f"epoch-{epoch:06}"

    def _states(self):
        return sorted(path.parent for path in self.directory.glob("epoch-*/state.json"))

    def _save(self, epoch):
        unfinished = self._cleared()
        unfinished.mkdir(parents=True)
        self.model.save_weights(unfinished / "model.weights.h5")
        kept = {"epoch": epoch, "seconds": self.time(), "settings": self.settings}
        kept.update(logs=self.logs, best=None)
        if self.stopping.best_weights is not None:
            names = ("best", "wait", "best_epoch")
            kept.update((name, float(getattr(self.stopping, name))) for name in names)
            best = {str(i): w for i, w in enumerate(self.stopping.best_weights)}
            np.savez(unfinished / "best.npz", **best)
        (unfinished / "state.json").write_text(json.dumps(kept))
        os.rename(unfinished, self._path(epoch))
        self._remove(old for old in self._states() if old != self._path(epoch))

    def _cleared(self):
        """Returns the path for an unfinished state, after removing a state left there."""
        unfinished = self.directory / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        return unfinished

    def _remove(self, states):
        """Removes states. Each is renamed first, so that a kill leaves no partial state."""
        unfinished = self._cleared()
        for state in states:
            os.rename(state, unfinished)
            shutil.rmtree(unfinished)

    def time(self):
        """Returns the seconds of training, those before a kill included."""
        return self.seconds + time.time() - self._start

    def finish(self):
        """Removes the state when the training is done. Other files in the directory stay."""
        if self.directory:
            self._remove(self._states())
            if not any(self.directory.iterdir()):
                self.directory.rmdir()
            release(self.directory)
