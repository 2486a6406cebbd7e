"""A training for tests/test_distribute.py: in this process, or in each worker of a cluster.

    python examples/cluster.py --workers 2 tests/many_workers.py OUT DATA_DIR KILL UNEQUAL

OUT gets what the worker INDEX saw, as INDEX.npz. KILL is the epoch in which worker 1 is killed, the
first time it gets there; OUT then keeps the state of the training. UNEQUAL names what is another in
worker 1.
"""

import json
import os
import pathlib
import signal
import sys
import time

FILES = pathlib.Path(__file__).parent
sys.path[:0] = [str(FILES.parent / "examples")]

import quiet_tensorflow  # noqa: E402, F401
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from resume import Resume  # noqa: E402

import keras_gated  # noqa: E402
from keras_gated import distribute  # noqa: E402
from keras_gated.paths import compiled, packing  # noqa: E402

EPOCHS = 4
RNG = np.random.default_rng(0)
IDS = RNG.integers(1, 9, (32, 9)).astype("int32")
IDS[2:20, 5:] = IDS[20:, :3] = IDS[::3, 7] = 0  # padding behind, before and between
LABELS = RNG.normal(size=(32, 1)).astype("float32")


def model_of(units=4, momentum=0.9, layers=1):
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 3, mask_zero=True)(ids)
    x = keras_gated.Bidirectional(keras_gated.LSTM(units, fused=True))(x)
    for _ in range(layers):
        x = keras.layers.Dense(1)(x)
    model = keras.Model(ids, x)
    model.compile(keras.optimizers.SGD(0.1, momentum=momentum), "mse", metrics=["mae"])
    return model


class Steps(keras.callbacks.Callback):
    """Notes how long the steps of training take, in milliseconds, and kills in an epoch."""

    def __init__(self, kill=None):
        super().__init__()
        self.times, self.kill = [], kill

    def on_epoch_begin(self, epoch, logs=None):
        self.kills = self.kill and epoch == self.kill[0] and not self.kill[1].exists()

    def on_train_batch_begin(self, batch, logs=None):
        if self.kills and batch == 1:
            self.kill[1].touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(1000 * (time.perf_counter() - self.start))


def trained(strategy, directory=None, kill=None):
    """Returns what a training gives: weights, history, evaluation, predictions, step times."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = model_of()
    best = keras.callbacks.EarlyStopping("val_loss", patience=EPOCHS)
    resume = Resume(directory, {}, model, best)
    distribute.check_workers(model, epoch=resume.epoch)
    rows = tf.data.Dataset.from_tensor_slices((IDS, LABELS))
    # Keras reads a batch ahead where there is a strategy: another order for each reading would
    # not be that of one process.
    rows = rows.shuffle(32, seed=3, reshuffle_each_iteration=False)
    batches = rows.batch(8).repeat(EPOCHS).skip(4 * resume.epoch)
    uneven = tf.data.Dataset.from_tensor_slices((IDS, LABELS)).take(13).batch(4)
    steps = Steps(kill)
    history = model.fit(
        batches, steps_per_epoch=4, initial_epoch=resume.epoch, epochs=EPOCHS, verbose=0,
        validation_data=uneven, callbacks=[best, steps, resume], shuffle=False,
    )  # fmt: skip
    found = {f"weights {n}": weight for n, weight in enumerate(model.get_weights())}
    found.update((name, values[-1:]) for name, values in history.history.items())
    # The last batch has one row, and one worker none.
    found["evaluated"] = list(model.evaluate(uneven, verbose=0, return_dict=True).values())
    found["predicted"] = model.predict(uneven, verbose=0)
    found["of arrays"] = model.predict(IDS, batch_size=8, verbose=0)
    found["ms"] = np.median(steps.times)
    found.update((f"carried {n}", weight) for n, weight in enumerate(carried(strategy)))
    return found


def carried(strategy):
    """Returns the weights of a stateful model after a stream, whose rows the workers share."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        x = keras.Input((None, 3), batch_size=8 // strategy.num_replicas_in_sync)
        hidden = keras_gated.LSTM(4, stateful=True, return_sequences=True)(x)
        model = keras.Model(x, keras.layers.Dense(1)(hidden))
        model.compile(keras.optimizers.SGD(0.1), "mse")
    stream = np.random.default_rng(0).normal(size=(400, 3)).astype("float32")
    targets = np.roll(stream[:, :1], 3, axis=0)  # what came three steps before
    data = keras_gated.windows(stream, targets, batch_size=8, steps=5)
    model.fit(data, epochs=2, shuffle=False, callbacks=[keras_gated.ResetState()], verbose=0)
    return model.get_weights()


def parts_of_batches(strategy, data):
    """Returns the rows of each batch that a worker is given, as JSON."""
    parts = []
    for batch in strategy.experimental_distribute_dataset(data):
        parts += [[row.decode() for row in strategy.experimental_local_results(batch)[0].numpy()]]
    return json.dumps(parts)


def texts(data_dir):
    """A data set of TFDS, in batches."""
    from keras_gated import datasets

    reviews = datasets.load("toy_reviews", data_dir)["validation"].take(30)
    return reviews.map(lambda review: review["text"]).batch(8)


def files(folder):
    """Batches from two files of unequal numbers of rows, which TensorFlow would share out."""
    names = [str(folder / name) for name in ("a.tfrecord", "b.tfrecord")]
    return tf.data.TFRecordDataset(names).batch(4)


def counted(function, calls):
    def counting(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    return counting


def main():
    out, data_dir, kill, unequal = pathlib.Path(sys.argv[1]), *sys.argv[2:]
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    other = unequal if index == 1 else ""
    if other == "version":
        keras_gated.__version__ += ".dev"
    strategy = distribute.strategy(units=4 + (other == "settings"))
    if unequal:
        if unequal != "no seed":
            keras.utils.set_random_seed(1 + (other == "seed"))
        with strategy.scope():
            size = 4 + (other == "units"), 0.9 * (other != "optimizer"), 1 + (other == "layers")
            model = model_of(*size)
        distribute.check_workers(model, epoch=int(other == "epoch"))
        return
    runs, packs = [], []
    compiled.run_group = counted(compiled.run_group, runs)
    packing.pack_masked = counted(packing.pack_masked, packs)
    state, killing = (out / "state", (int(kill), out / "killed")) if kill else (None, None)
    found = trained(strategy, state, killing if index == 1 else None)
    found.update(compiled=len(runs), packed=len(packs))
    if not kill:
        found.update(texts=parts_of_batches(strategy, texts(data_dir)))
        found.update(files=parts_of_batches(strategy, files(out)))
    np.savez(out / f"{index}.npz", **found)
    print(f"{found['ms']:.1f} ms a step of training", flush=True)


if __name__ == "__main__":
    main()
