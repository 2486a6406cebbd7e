"""Find the units of a character model whose memory tracks a property that has a name.

    python examples/characters.py --dataset tiny_shakespeare
    python examples/find_units.py saved_models/shakespeare     # writes units.png

Reads the held-out plays. A unit is chosen on half of the rows, and its correlation on the other
half is printed beside it. The picture shows an excerpt, each character coloured by the best unit's
memory.
"""

import json
import pathlib
import re
import sys

import quiet_tensorflow  # noqa: F401
import numpy as np
from argument_types import command_line, picture_file
from look_inside import load
from pictures import picture

from keras_gated import datasets, find_units, trace_gates
from keras_gated.recipes import text

STEPS, SETTLING = 1000, 100  # steps of a row; at the first ones the model has read too little


def since(pattern, written):
    """Returns, for each character, the number of characters since a pattern's last match ended."""
    ends = np.zeros(len(written), int)
    for match in re.finditer(pattern, written):
        ends[match.end() :] = match.end()
    return np.arange(len(written)) - ends


def inside(pattern, written):
    """Returns, for each character, 1 inside a match of a pattern and 0 outside."""
    marks = np.zeros(len(written), int)
    for match in re.finditer(pattern, written):
        marks[match.start() : match.end()] = 1
    return marks


def count(what, pattern, written):
    """Returns, for each character, how many of `what` came since the last match of a pattern."""
    so_far = np.cumsum(inside(what, written))
    return so_far - np.maximum.accumulate(np.where(since(pattern, written) == 0, so_far, 0))


NAME = r"(?<=\n\n)[A-Z][^\n:]*:"  # the speaker's name: a whole line after an empty line
PROPERTIES = {
    "position in the line": lambda w: since("\n", w),
    "position in the word": lambda w: since(r"[^A-Za-z']", w),
    "in the name of who speaks": lambda w: inside(NAME, w),
    "lines of the speech so far": lambda w: count("\n", NAME, w),
    "in capital letters": lambda w: inside("[A-Z]{2,}", w),
    "since the last comma or stop": lambda w: since("[,.;:!?]", w),
}  # fmt: skip


def plot(written, best, path, lines=14):
    """Draws the same excerpt for each property, coloured by its unit's memory.

    Args:
        written: The excerpt.
        best: The unit, and its memory at every character, by the property's name.
    """
    from matplotlib import pyplot as plt

    rows = written.split("\n")[:lines]
    width = max(map(len, rows))
    figure, axes = plt.subplots(
        len(best), 1, figsize=(0.085 * width + 0.4, 0.19 * (lines + 2) * len(best)), squeeze=False
    )
    for axis, (name, (unit, values)) in zip(axes[:, 0], best.items(), strict=True):
        values = np.sign(unit.correlation) * (values - np.median(values))
        strength = np.full((lines, width), np.nan)
        place = 0
        for number, row in enumerate(rows):
            strength[number, : len(row)] = values[place : place + len(row)]
            place += len(row) + 1
        most = np.nanmax(np.abs(strength))
        axis.imshow(strength, cmap="PuOr", vmin=-1.6 * most, vmax=1.6 * most, aspect="auto")
        for number, row in enumerate(rows):
            for column, character in enumerate(row):
                axis.text(column, number, character.replace("$", r"\$"), ha="center", va="center",
                          family="monospace", fontsize=8, color="black")  # fmt: skip
        axis.set_title(
            f"{name}: {unit.layer} {unit.unit}, correlation {unit.held_out:.2f}", fontsize=10
        )
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path)


def main():
    p = command_line(__doc__)
    p.add_argument("model", metavar="MODEL")
    p.add_argument(
        "--dataset", choices=["tiny_shakespeare", "toy_plays"], default="tiny_shakespeare"
    )
    p.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    p.add_argument("--output", type=picture_file, default="units.png")
    args = p.parse_args()

    model, reader = load(args.model)
    if reader.get("kind") == "sentiment":
        sys.exit(f"{args.model} must hold a character model. Received: a sentiment model")
    splits = datasets.load(args.dataset, args.data_dir, offline="toy_plays")
    held_out = "".join(
        next(iter(splits[s]))["text"].numpy().decode() for s in ("validation", "test")
    )
    number = len(held_out) // STEPS
    held_out = held_out[: number * STEPS]
    place = {token: i for i, token in enumerate(reader["vocabulary"])}
    ids = np.array([place.get(c, text.UNKNOWN) for c in held_out]).reshape(number, STEPS)
    best = {}
    for name, measure in PROPERTIES.items():
        values = np.asarray(measure(held_out), float).reshape(number, STEPS)
        values[:, :SETTLING] = np.nan
        found = find_units(model, ids, values, top=3)
        best[name] = found[0]
        print(f"{name:30}", "  ".join(
            f"{u.layer} {u.unit}: {u.correlation:+.2f} ({u.held_out:+.2f} held out)" for u in found
        ), flush=True)  # fmt: skip

    row = held_out[:STEPS]
    start = row.index("\n\n", SETTLING) + 2
    traced = trace_gates(model, ids[:1])

    def memory(unit):
        gates = traced[unit.layer]
        return np.asarray(gates.get("memory", gates["hidden"]))[0, start:, unit.unit]

    clearest = sorted(best.items(), key=lambda item: -abs(item[1].held_out))[:2]
    coloured = {name: (unit, memory(unit)) for name, unit in clearest}
    picture(plot, row[start:], coloured, path=pathlib.Path(args.output))
    chosen = {name: {**unit._asdict()} for name, unit in best.items()}
    print(json.dumps({"dataset": args.dataset, "units": chosen}))


if __name__ == "__main__":
    main()
