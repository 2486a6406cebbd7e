"""What the two training scripts share: command line, cells, going on after a kill, closing line."""

import argparse
import json
import os
import pathlib
import shutil
import time

import keras
import numpy as np

import keras_gated

CELLS = {"simple_rnn": keras_gated.SimpleRNN, "lstm": keras_gated.LSTM, "gru": keras_gated.GRU}


def parser(description, datasets, **defaults):
    """Returns the parser of a training script; `defaults` fill in what scripts differ in."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=datasets, default=datasets[0])
    parser.add_argument("--cell", choices=CELLS, default="lstm")
    parser.add_argument("--units", type=positive)
    parser.add_argument("--layers", type=positive, default=1)
    parser.add_argument("--epochs", type=positive)
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    parser.add_argument(
        "--output", default="saved_models", help="exports go to OUTPUT/NAME/VERSION"
    )
    parser.add_argument("--name", help="default: the name of the data set")
    parser.add_argument(
        "--resume",
        metavar="DIRECTORY",
        help="keep the state of the training there, and go on from it if there is one",
    )
    parser.set_defaults(**defaults)
    return parser


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer. Received: {text}")
    return number


def report(args, **results):
    """Prints the last line: one JSON object that programs can read."""
    setting = {name: getattr(args, name) for name in ("dataset", "cell", "units", "layers", "seed")}
    print(json.dumps({**setting, **results}), flush=True)


def to_look_inside(model, kind, vocabulary, **reading):
    """Returns the files for `export_model` to write beside a model, for `look_inside.py`.

    Args:
        model: The Keras model from ids to predictions.
        kind: "sentiment" or "characters".
        vocabulary: What each id stands for, a list of strings.
        reading: What else there is to know about how a text is read.
    """
    without_optimizer = keras.Model(model.input, model.output)
    reader = json.dumps({"kind": kind, "vocabulary": vocabulary, **reading})
    return {
        "model.keras": without_optimizer.save,
        "reader.json": lambda path: pathlib.Path(path).write_text(reader),
    }


_ELSEWHERE = ("data_dir", "name", "output", "prompt", "resume")  # no matter to the training


class Resume(keras.callbacks.Callback):
    """Keeps a training's state, so that a killed one ends as if it had not been killed.

    Whatever an epoch depends on is written before it begins: the weights, the optimizer, what
    early stopping remembers. It appears under its name when it is whole, by one rename, so that
    a kill at any moment leaves the state before or the state after. (Keras's `BackupAndRestore`
    writes the weights and the number of the epoch one after the other, and not what other
    callbacks remember.) The draws of dropout are set anew at every epoch, from its number; the
    order of the data must depend on that number, too.

    Place it after all other callbacks.

    Args:
        directory: Where the state is kept, or None: then nothing is.
        settings: What the state belongs to, a dict; another one is refused.
        model: The compiled model; its state is restored here.
        stopping: The `EarlyStopping` callback of the same `fit`.

    Attributes:
        epoch: The epoch to begin with: `fit(initial_epoch=...)`.
    """

    def __init__(self, directory, settings, model, stopping):
        super().__init__()
        self.directory = directory and pathlib.Path(directory)
        self.settings = {k: v for k, v in settings.items() if k not in _ELSEWHERE}
        self.stopping = stopping
        self.epoch, self.seconds, self._remembered = 0, 0.0, None
        self._seeds = [
            (layer.seed_generator, int(layer.seed_generator.state.numpy()[0]))
            for layer in model._flatten_layers()
            if hasattr(layer, "seed_generator")
        ]
        self._start = time.time()
        states = self._states() if self.directory else []
        if states:
            self._restore(model, states[-1])

    def _restore(self, model, state):
        kept = json.loads((state / "state.json").read_text())
        if kept["settings"] != self.settings:
            different = sorted(k for k, v in self.settings.items() if kept["settings"].get(k) != v)
            raise SystemExit(
                f"--resume {self.directory}: the state there belongs to a training with another "
                f"{', '.join(different)}. Give the same options, or another directory."
            )
        model.optimizer.build(model.trainable_variables)
        model.load_weights(state / "model.weights.h5")
        self.epoch, self.seconds, self._remembered = kept["epoch"], kept["seconds"], kept
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
        if self.directory and not self._path(epoch).exists():
            self._save(epoch)

    def _path(self, epoch):
        return self.directory / f"epoch-{epoch:06}"

    def _states(self):
        return sorted(path.parent for path in self.directory.glob("epoch-*/state.json"))

    def _save(self, epoch):
        unfinished = self.directory / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        self.model.save_weights(unfinished / "model.weights.h5")
        kept = {"epoch": epoch, "seconds": self.time(), "settings": self.settings, "best": None}
        if self.stopping.best_weights is not None:
            names = ("best", "wait", "best_epoch")
            kept.update((name, float(getattr(self.stopping, name))) for name in names)
            best = {str(i): w for i, w in enumerate(self.stopping.best_weights)}
            np.savez(unfinished / "best.npz", **best)
        (unfinished / "state.json").write_text(json.dumps(kept))
        os.rename(unfinished, self._path(epoch))
        for old in self._states():
            if old != self._path(epoch):
                shutil.rmtree(old)

    def time(self):
        """Returns the seconds of training, those before a kill included."""
        return self.seconds + time.time() - self._start

    def finish(self):
        """Removes the state, as what it was kept for is done, and nothing else that is there."""
        if self.directory:
            for state in self._states():
                shutil.rmtree(state)
            if not any(self.directory.iterdir()):
                self.directory.rmdir()
