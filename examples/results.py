"""Rerun rows of the table in docs/results.md, and write the new results into it.

python examples/results.py sentiment characters     # three seeds each
python examples/results.py all
python examples/results.py --quick                  # small versions: the table is not rewritten
"""

import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from argument_types import command_line, seed, text_file

EXAMPLES = pathlib.Path(__file__).parent
HEAD = "| row | command | measured | seeds | training | parameters |"
QUICK_TEXTS = "--dataset toy_reviews --units 8 --epochs 1 --buckets 1009 --max-words 20"
QUICK_PLAYS = "--dataset toy_plays --units 16 --epochs 1 --batch-size 256"
QUICK_SERIES = "--units 8 --epochs 1 --batch-size 256"
QUICK_SUMS = "--length 20 --units 8 --minutes 0.02"


class Row(NamedTuple):
    """One row: a command, the results to take from its last lines, and options of a quick run."""

    command: str
    measures: tuple  # (key of the result, name, digits)
    quick: str
    seeds: tuple = (1, 2, 3)


ACCURACY = (("test_accuracy", "accuracy", 4),)
NATS = (("loss_nats", "nats", 4), ("bits_per_character", "bits a character", 3))
ERROR = (("error", "error", 5),)
ROWS = {
    "sentiment": Row("sentiment.py", ACCURACY, QUICK_TEXTS),
    "sentiment-large": Row(
        "sentiment.py --networks 2 --held-out 0 --epochs 5 --no-names", ACCURACY, QUICK_TEXTS
    ),
    "characters-small": Row("characters.py --units 352", NATS, QUICK_PLAYS),
    "characters": Row("characters.py", NATS, QUICK_PLAYS),
    "characters-large": Row(
        "characters.py --networks 4 --units 448 --epochs 7 --dropout 0.25 --n-grams 7 --dynamic",
        (*NATS, ("dynamic_loss_nats", "with dynamic evaluation", 4)),
        f"{QUICK_PLAYS} --networks 2",
        seeds=(1,),
    ),
    **{
        f"memory-{length}": Row(f"long_memory.py --length {length}", ERROR, QUICK_SUMS)
        for length in (100, 200, 400, 600)
    },
    "vowels": Row("vowels.py", ACCURACY, QUICK_SERIES),
}


def run(command, seed, folder):
    """Runs a script and returns the JSON objects that it printed."""
    script, *options = command.split()
    line = [sys.executable, EXAMPLES / script, *options, "--seed", str(seed)]
    process = subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, text=True)
    found = []
    for said in process.stdout:
        print(said, end="", flush=True)
        if said.startswith("{"):
            found.append(json.loads(said))
    if process.wait() or not found:
        raise SystemExit(f"{' '.join(map(str, line))} ended with {process.returncode}.")
    return found


def summary(row, results):
    """Returns the results of a row's commands in words: the mean, ± the deviation over seeds."""
    said = []
    for of_cell in zip(*results, strict=True):
        values = []
        for key, name, digits in row.measures:
            own = [result[key] for result in of_cell]
            spread = f" ± {statistics.stdev(own):.{digits}f}" if len(own) > 1 else ""
            values.append(f"{name} {statistics.mean(own):.{digits}f}{spread}")
        cell = f"{of_cell[0]['cell']}: " if len(results[0]) > 1 else ""
        said.append(cell + ", ".join(values))
    return "; ".join(said)


def line(name, row, results):
    seconds = [sum(result["seconds"] for result in of_seed) for of_seed in results]
    parameters = {f"{result['parameters']:,}": None for of_seed in results for result in of_seed}
    took = f"{min(seconds):.0f} to " if len(results) > 1 else ""
    cells = [
        name,
        f"`examples/{row.command}`",
        summary(row, results),
        str(len(results)),
        f"{took}{max(seconds):.0f} s",
        ", ".join(parameters),
    ]
    return f"| {' | '.join(cells)} |"


def rewritten(text, name, new):
    """Returns the page with the line of one row of the table replaced, or added at its place."""
    lines = text.splitlines()
    if HEAD not in lines:
        raise SystemExit(f"The page holds no table that begins with {HEAD!r}. Put it there.")
    end = first = lines.index(HEAD) + 2
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    order = list(ROWS)
    later = order[order.index(name) :] if name in order else [name]
    place = next((n for n in range(first, end) if lines[n].split()[1] in later), end)
    same = place < end and lines[place].split()[1] == name
    lines[place : place + same] = [new]
    return "\n".join(lines) + "\n"


def main():
    p = command_line(__doc__)
    p.add_argument("rows", nargs="*", metavar="ROW", help=f"all, or some of {', '.join(ROWS)}")
    p.add_argument("--quick", action="store_true", help="in small, one seed: the page stays")
    p.add_argument("--seeds", type=seed, nargs="+", help="default: the row's own")
    page = EXAMPLES.parent / "docs" / "results.md"
    p.add_argument("--page", default=page, type=text_file)
    p.add_argument("--folder", default=".", help="the scripts write into it")
    args = p.parse_args()
    every = args.rows == ["all"] or (args.quick and not args.rows)
    chosen = ROWS if every else args.rows
    unknown = set(chosen) - set(ROWS)
    if unknown or not chosen:
        p.error(f"name rows: all, or some of {', '.join(ROWS)}. Received: {sorted(unknown)}")
    start = time.time()
    for name in chosen:
        row = ROWS[name]
        command = f"{row.command} {row.quick}" if args.quick else row.command
        seeds = args.seeds or (row.seeds[:1] if args.quick else row.seeds)
        new = line(name, row, [run(command, seed, args.folder) for seed in seeds])
        print(new, flush=True)
        if not args.quick:
            page = pathlib.Path(args.page)
            page.write_text(rewritten(page.read_text(), name, new))
    versions = f"Python {platform.python_version()}, {time.time() - start:.0f} s in all"
    print(f"{len(chosen)} rows, {versions}")


if __name__ == "__main__":
    main()
