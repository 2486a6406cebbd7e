"""Measure every family against `keras.layers.RNN` around the same cell, and against our LSTM.

    python examples/benchmark_families.py                   # about three minutes
    python examples/benchmark_families.py --shapes s S C

A call is one forward and backward pass ("train") or a forward pass alone. The calls alternate. In
masked rows, between a quarter and all of the steps are valid. Writes OUTPUT/families.csv.
"""

import csv
import functools
import os
import pathlib

from argument_types import above_zero, command_line, folder
from benchmark import SHAPES, calls_of, in_turn, spread

FAMILIES = {
    "SimpleRNN": {}, "GRU": {}, "LSTM": {}, "GRU, reset before": {"reset_after": False},
    "PeepholeLSTM": {}, "CoupledLSTM": {}, "LayerNormLSTM": {}, "LayerNormGRU": {}, "MGU": {},
    "MinGRU": {}, "MinLSTM": {}, "MogrifierLSTM": {},
    "LSTM, projection to half": {"projection": 0.5},
    "LSTM, zoneout": {"zoneout": 0.1}, "LSTM, recurrent dropout": {"recurrent_dropout": 0.2},
    "LSTM, activation relu": {"activation": "relu"},
}  # fmt: skip


def compare(family, shape, masked, seconds):
    """Returns milliseconds by (the call, the library whose loop runs)."""
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_gated

    batch, steps, features, units = shape
    options = dict(FAMILIES[family])
    if "projection" in options:
        options["projection"] = int(units * options["projection"])
    kind = getattr(keras_gated, family.partition(",")[0])
    ours = kind(units, return_sequences=True, **options)
    ours.build((batch, steps, features))
    theirs = keras.layers.RNN(ours.cell, return_sequences=True)
    theirs.build((batch, steps, features))
    lengths = np.random.default_rng(0).integers(steps // 4, steps + 1, batch)
    inputs = [tf.random.normal((batch, steps, features))]
    inputs += [tf.sequence_mask(lengths, steps)] * masked
    both = {"ours": calls_of(ours, shape, masked), "keras": calls_of(theirs, shape, masked)}
    found = {}
    for what in ("train", "forward"):
        calls = {name: functools.partial(of[what], *inputs) for name, of in both.items()}
        times = in_turn(calls, seconds)
        found.update({(what, name): spread(values)[0] for name, values in times.items()})
    return found


def main():
    p = command_line(__doc__)
    p.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    p.add_argument("--shapes", nargs="+", choices=SHAPES, default=["s", "S"])
    p.add_argument("--seconds", type=above_zero, default=1.0, help="a case")
    p.add_argument("--output", type=folder, default="runs/benchmark")
    args = p.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    rows = []
    print(f"{'':28}{'train, ms (times as fast as keras.layers.RNN around the cell)':>62}")
    titles = [f"{s}{m}" for s in args.shapes for m in ("", " masked")]
    print(f"{'family':28}" + "".join(f"{title:>18}" for title in titles), flush=True)
    for family in args.families:
        line = f"{family:28}"
        for shape in args.shapes:
            for masked in (False, True):
                ms = compare(family, SHAPES[shape], masked, args.seconds)
                rows += [[family, shape, masked, *key, value] for key, value in ms.items()]
                ratio = ms["train", "keras"] / ms["train", "ours"]
                line += f"{ms['train', 'ours']:10.2f} ({ratio:5.2f})"
        print(line, flush=True)
    pathlib.Path(args.output).mkdir(parents=True, exist_ok=True)
    with pathlib.Path(args.output, "families.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["family", "shape", "masked", "call", "loop", "ms"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
