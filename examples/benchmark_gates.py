"""Measure the time of `trace_gates`, in forward passes of the same layer or model.

    TFDS_DATA_DIR=... python examples/benchmark_gates.py    # about a minute

Layers return the outputs of all steps, at the shapes of `benchmark.py`. The models are the
classifier of `sentiment.py` without n-grams, and one network of 512 units as in `characters.py`.
Calls with and without gates alternate.
"""

import functools
import statistics

import characters
import numpy as np
import sentiment
import tensorflow as tf
from argument_types import above_zero, command_line
from benchmark import SHAPES, in_turn, padded_reviews, spread

import keras_gated


def compare(case, model, inputs, seconds):
    """Prints the milliseconds with and without gates. Returns the ratio."""
    specs = [tf.TensorSpec([None] * x.shape.rank if x.dtype.is_integer else x.shape, x.dtype)
             for x in inputs]  # fmt: skip

    def forward(x, mask=None):
        return model(x, mask=mask, training=False)

    def gates(x, mask=None):
        return keras_gated.trace_gates(model, x, mask=mask)

    calls = {
        function.__name__: functools.partial(tf.function(function, specs, autograph=False), *inputs)
        for function in (forward, gates)
    }
    times = in_turn(calls, seconds)
    without, with_gates = spread(times["forward"])[0], spread(times["gates"])[0]
    ratio = with_gates / without
    print(f"{case:32}{without:8.2f} ms, with gates {with_gates:8.2f} ms, {ratio:.2f}", flush=True)
    return ratio


def main():
    p = command_line(__doc__)
    p.add_argument("--data-dir", help="with prepared imdb_reviews; default: $TFDS_DATA_DIR")
    p.add_argument("--seconds", type=above_zero, default=2.0, help="a case")
    args = p.parse_args()
    [mask] = padded_reviews(args.data_dir, 1)
    review, padded = tf.fill([1, 200], np.int64(5)), tf.constant(np.where(mask, 5, 0))
    layers, models = [], []
    for family, cell in (("LSTM", "lstm"), ("GRU", "gru")):
        for name in ("S", "C", "s", "one"):
            shape = SHAPES[name]
            layer = getattr(keras_gated, family)(shape[3], return_sequences=True)
            x = tf.random.normal(shape[:3])
            layers.append(compare(f"{family} {name}", layer, [x], args.seconds))
        layer = getattr(keras_gated, family)(64, return_sequences=True)
        x = tf.random.normal((*mask.shape, 64))
        layers.append(compare(f"{family} imdb", layer, [x, tf.constant(mask)], args.seconds))
        reader, _ = sentiment.build_model(20_000, cell, 64, 1)
        models.append(compare(f"{cell} sentiment, 64 reviews", reader, [padded], args.seconds))
        models.append(compare(f"{cell} sentiment, 1 review", reader, [review], args.seconds))
        writer, _ = characters.build_model(65, cell, 512, 1)
        windows = tf.fill([64, 100], np.int64(5))
        models.append(compare(f"{cell} characters, 64 windows", writer, [windows], args.seconds))
        models.append(compare(f"{cell} characters, 1 text", writer, [review], args.seconds))
    for what, ratios in (("layers", layers), ("models", models)):
        mean = statistics.geometric_mean(ratios)
        print(f"{what}: {mean:.2f} forward passes (geometric mean), at most {max(ratios):.2f}")


if __name__ == "__main__":
    main()
