"""Tell nine speakers apart by a vowel: series of 12 channels and of unequal lengths.

    pip install --no-deps aeon                          # holds the data: nothing is downloaded
    python examples/vowels.py
    python examples/vowels.py --peer keras              # the same model of keras.layers
    python examples/vowels.py --peer torch              # ... of torch.nn, packed (extra `torch`)

A bidirectional network reads the 7 to 29 steps of a series. The mean of its outputs over the steps
tells the speaker. A batch is padded to its longest series; the model takes the lengths, and makes
the mask from them. Every tenth series of the training split is held out, and the loss on these
chooses the epoch. The peers start from the same weights and read the same batches.
"""

import functools
import json
import pathlib
import statistics
import time

import quiet_tensorflow  # noqa: F401
import keras
import tensorflow as tf
from argument_types import command_line, positive, require_folder, seed, share
from keras import layers, ops
from training import CELLS

import keras_gated
from keras_gated import datasets
from keras_gated.paths import packing

LEARNING_RATE, LARGEST_NORM = 3e-3, 1.0


def arguments():
    p = command_line(__doc__)
    p.add_argument("--peer", choices=["keras", "torch"], help="default: our layers")
    p.add_argument("--cell", choices=CELLS, default="lstm")
    p.add_argument("--units", type=positive, default=100, help="of each direction")
    p.add_argument("--epochs", type=positive, default=100)
    p.add_argument("--batch-size", type=positive, default=32)
    p.add_argument("--dropout", type=share, default=0.5)
    p.add_argument("--seed", type=seed, default=1)
    p.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    p.add_argument("--output", default="saved_models", help="exports go to OUTPUT/vowels/VERSION")
    args = p.parse_args()
    require_folder(p, args.output, "vowels")
    return args


def read(data_dir):
    """Returns the data sets to train on, to choose the epoch, and to test, in memory."""
    splits = datasets.load("japanese_vowels", data_dir)

    def rows(split):
        return split.map(
            lambda x: ({"series": x["series"], "lengths": tf.shape(x["series"])[0]}, x["label"])
        ).cache()

    # The split holds speaker after speaker: every tenth series is a tenth of each speaker's.
    held_out, *others = (splits["train"].shard(10, number) for number in range(10))
    train = functools.reduce(tf.data.Dataset.concatenate, others)
    return rows(train), rows(held_out), rows(splits["test"])


def build_model(cell, units, dropout, steps):
    """Returns the model from series and lengths to the probabilities of the speakers.

    Args:
        steps: The steps that decide how channels are normalized, `(steps, 12)`.
    """
    series = keras.Input((None, steps.shape[1]), name="series")
    lengths = keras.Input((), dtype="int32", name="lengths")
    numbers = ops.cumsum(ops.ones_like(series[..., 0], "int32"), axis=1)  # 1, 2, 3, ...
    mask = numbers <= lengths[:, None]
    normalization = layers.Normalization()
    normalization.adapt(steps)
    x = layers.SpatialDropout1D(dropout / 2)(normalization(series))
    recurrent = CELLS[cell](units, return_sequences=True)
    x = keras_gated.Bidirectional(recurrent, name="recurrent")(x, mask=mask)
    x = layers.GlobalAveragePooling1D()(x, mask=mask)
    x = layers.Dropout(dropout)(x)
    speaker = layers.Dense(9, activation="softmax", name="speaker")(x)
    return keras.Model({"series": series, "lengths": lengths}, speaker)


class Seconds(keras.callbacks.Callback):
    """Measures how long the training steps of each epoch take, without the validation."""

    def __init__(self):
        super().__init__()
        self.of_epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.of_epochs.append(time.perf_counter() - self._start)


def fit(model, train, validation, epochs):
    """Trains through `model.fit`. Returns the seconds of each epoch and the best epoch's logs."""
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=LARGEST_NORM),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    best = keras.callbacks.EarlyStopping("val_loss", patience=epochs, restore_best_weights=True)
    seconds = Seconds()
    logs = model.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        callbacks=[best, seconds],
        shuffle=False,
        verbose=2,
    ).history
    return seconds.of_epochs, {
        "best_epoch": best.best_epoch + 1,
        "validation_accuracy": round(logs["val_accuracy"][best.best_epoch], 4),
    }


def padding(batches, peer):
    """Returns the share of padding among the steps of batches, and how much of it is skipped.

    `keras.layers` computes a masked step, and does not use the result. `torch.nn` skips all
    padding. For our layers the number of steps is that of the packed batch.
    """
    steps = valid = run = 0
    for x, _ in batches:
        rows, longest, _ = x["series"].shape
        own = int(tf.reduce_sum(x["lengths"]))
        steps, valid = steps + rows * longest, valid + own
        run += {"keras": rows * longest, "torch": own}[peer] if peer else steps_run(x)
    return 1 - valid / steps, (steps - run) / (steps - valid)


_TRACED = {}


def steps_run(x):
    """Returns the number of steps that our compiled loop runs over a batch, for all rows."""
    mask = tf.sequence_mask(x["lengths"], x["series"].shape[1])
    state = tf.zeros((len(mask), 1))
    options = (False, False, False, packing.COMPILED, _TRACED)
    packed = packing.pack_masked(x["series"], mask, [state], *options)
    return sum(int(tf.tensordot(g.chunks.steps, g.chunks.rows, 1)) for g in packed.groups)


def main():
    args = arguments()
    train, validation, test = read(args.data_dir)
    keras.utils.set_random_seed(args.seed)  # now: preparing data draws random numbers, too

    def batches(rows):
        return rows.padded_batch(args.batch_size).prefetch(2)

    steps = tf.concat([x["series"] for x, _ in train], axis=0)
    model = build_model(args.cell, args.units, args.dropout, steps)
    shuffled = batches(train.shuffle(len(train), seed=args.seed))
    padded, skipped = padding(shuffled, args.peer)
    start, saved_model = time.time(), None
    if args.peer == "torch":
        import vowels_torch

        peer = vowels_torch.of_keras(model, args.dropout)
        seconds, found = vowels_torch.fit(
            peer, shuffled, batches(validation), args.epochs, LEARNING_RATE, LARGEST_NORM
        )
        tested = vowels_torch.evaluate(peer, batches(test))
    else:
        model = keras_gated.to_keras(model) if args.peer else model
        seconds, found = fit(model, shuffled, batches(validation), args.epochs)
        tested = model.evaluate(batches(test), return_dict=True, verbose=0)
    whole = time.time() - start
    if not args.peer:
        saved_model = keras_gated.export_model(model, pathlib.Path(args.output, "vowels"))
    print(
        json.dumps(
            {
                "dataset": "japanese_vowels",
                "layers": args.peer or "keras_gated",
                "cell": args.cell,
                "units": args.units,
                "seed": args.seed,
                "epochs": args.epochs,
                **found,
                "seconds": round(whole, 1),
                "seconds_of_an_epoch": round(statistics.median(seconds), 4),
                "padding": round(padded, 3),
                "padding_skipped": round(skipped, 3),
                "test_loss": round(tested["loss"], 4),
                "test_accuracy": round(tested["accuracy"], 4),
                "parameters": model.count_params(),
                "saved_model": saved_model,
            }
        )
    )


if __name__ == "__main__":
    main()
