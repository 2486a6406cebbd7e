"""The adding problem: which networks remember over hundreds of steps?

    python examples/long_memory.py --length 100 200 400 600     # writes long_memory.png

A sequence of random numbers between 0 and 1 has two marked steps, one in each half. After the last
step the network returns the sum of the two marked numbers (Hochreiter and Schmidhuber 1997). A
network that always answers 1 has a mean squared error of 1/6. The plots show the error over the
training steps at the longest length, and the error on new sequences over the length. The gates of
LSTM and GRU begin with the biases of Tallec and Ollivier 2018, arXiv:1804.11188, equation 16.
"""

import json
import pathlib
import time

import quiet_tensorflow  # noqa: F401
import keras
import numpy as np
import tensorflow as tf
from argument_types import above_zero, command_line, picture_file, positive, seed
from how_far_back import FAMILIES, keep_for
from pictures import picture

BASELINE, SOLVED = 1 / 6, 1e-3
BATCH, STEPS = 64, 100  # sequences of a training step, training steps between two validations


def sequences(seed, rows, length):
    """Returns numbers and marks, `(rows, length, 2)`, and the sums, `(rows, 1)`."""
    seeds = tf.random.split(seed, 3)
    half = length // 2
    first = tf.random.stateless_uniform([rows], seeds[0], 0, half, tf.int32)
    second = tf.random.stateless_uniform([rows], seeds[1], half, length, tf.int32)
    marks = tf.one_hot(first, length) + tf.one_hot(second, length)
    numbers = tf.random.stateless_uniform([rows, length], seeds[2])
    sums = tf.reduce_sum(numbers * marks, axis=1, keepdims=True)
    return tf.stack([numbers, marks], axis=2), sums


def build(family, units, length, seed):
    inputs = keras.Input((length, 2))
    outputs = keras.layers.Dense(1)(FAMILIES[family](units, name="recurrent")(inputs))
    model = keras.Model(inputs, outputs)
    if family != "SimpleRNN":
        keep_for(model, length, seed)
    model.compile(keras.optimizers.Adam(3e-3, clipnorm=1.0), "mse")
    return model


class UntilSolved(keras.callbacks.Callback):
    """Ends a training when the validation error is well below `SOLVED`, or the time is over."""

    def __init__(self, minutes):
        super().__init__()
        self.end = time.time() + 60 * minutes

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training |= time.time() > self.end

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training |= logs["val_loss"] < SOLVED / 2


def train(family, length, args):
    """Returns the validation errors after every `STEPS` training steps, and the final results."""
    keras.utils.set_random_seed(args.seed)
    model = build(family, args.units, length, args.seed)
    best = keras.callbacks.EarlyStopping("val_loss", patience=10**6, restore_best_weights=True)
    start = time.time()
    history = model.fit(
        tf.data.Dataset.counter()
        .map(lambda number: sequences(tf.stack([args.seed, number]), BATCH, length))
        .prefetch(2),
        steps_per_epoch=STEPS,
        epochs=-(-args.steps // STEPS),
        validation_data=sequences([args.seed, -1], 1000, length),
        callbacks=[best, UntilSolved(args.minutes)],
        verbose=0,
    ).history
    seconds = time.time() - start
    error = model.evaluate(*sequences([args.seed, -2], 2000, length), verbose=0)
    results = {"error": error, "seconds": round(seconds, 1), "parameters": model.count_params()}
    return history["val_loss"], results


def plot(curves, errors, path):
    from matplotlib import pyplot as plt

    figure, (over_steps, over_length) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    colours = {"SimpleRNN": "C3", "LSTM": "C0", "GRU": "C2"}
    longest = max(length for _, length in curves)
    for family in FAMILIES:
        line = {"color": colours[family], "label": family}
        if (family, longest) in curves:
            curve = curves[family, longest]
            over_steps.plot(STEPS * np.arange(1, len(curve) + 1), curve, **line)
        own = sorted((length, error) for (name, length), error in errors.items() if name == family)
        over_length.plot(*zip(*own, strict=True), "o-", **line)
    over_steps.set(xlabel=f"training steps, T = {longest}", ylabel="mean squared error")
    over_length.set(xlabel="length T", xticks=sorted({length for _, length in errors}))
    for axes in (over_steps, over_length):
        axes.axhline(BASELINE, color="0.5", linestyle=":", label="always 1")
        axes.axhline(SOLVED, color="0.5", linestyle="--", label="solved")
        axes.set(yscale="log")
        axes.grid(alpha=0.3)
    over_steps.legend(fontsize="small")
    figure.savefig(path)


def main():
    p = command_line(__doc__)
    p.add_argument("--length", type=positive, nargs="+", default=[100], help="of the sequences")
    p.add_argument("--cell", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    p.add_argument("--units", type=positive, default=64)
    p.add_argument(
        "--steps", type=positive, default=6000, help="at most, of one training; full hundreds"
    )
    p.add_argument("--minutes", type=above_zero, default=10, help="at most, of one training")
    p.add_argument("--seed", type=seed, default=1)
    p.add_argument("--output", type=picture_file, default="long_memory.png")
    args = p.parse_args()
    curves, errors = {}, {}
    for length in args.length:
        for family in args.cell:
            curves[family, length], results = train(family, length, args)
            errors[family, length] = results["error"]
            steps = STEPS * len(curves[family, length])
            setting = {"task": "adding", "cell": family, "length": length, "units": args.units}
            print(json.dumps({**setting, "seed": args.seed, "steps": steps, **results}), flush=True)
    picture(plot, curves, errors, path=pathlib.Path(args.output))


if __name__ == "__main__":
    main()
