"""The table of results: every row runs in small, and only its own line is rewritten."""

import json
import os
import pathlib
import subprocess
import sys

import long_memory
import numpy as np
import pytest
import results
import stand_in_aeon
from scripts import said_here

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"


@pytest.mark.slow
@pytest.mark.parametrize("rows", [
    ["memory-100"], pytest.param(list(results.ROWS), marks=(pytest.mark.slow, pytest.mark.long))
])  # fmt: skip
def test_rows_run_in_small_and_leave_the_page_alone(rows, tmp_path):
    before = PAGE.read_bytes()
    command = [sys.executable, ROOT / "examples" / "results.py", *rows]
    command += ["--quick", "--folder", tmp_path]
    stand_in_aeon.write(tmp_path)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    # What is prepared of made-up series must not stand where the true ones are looked for.
    environment = {**os.environ, "PYTHONPATH": path, "TFDS_DATA_DIR": str(tmp_path / "data")}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr[-3000:]
    said = process.stdout.splitlines()
    assert [line.split()[1] for line in said if line.startswith("|")] == rows
    assert said[-1].startswith(f"{len(rows)} rows")
    assert PAGE.read_bytes() == before
    drawn = [json.loads(line) for line in said if line.startswith('{"task"')]
    assert {result["cell"] for result in drawn} == {"SimpleRNN", "LSTM", "GRU"}


def test_the_lines_of_the_page_are_rows_in_their_order():
    lines = PAGE.read_text().splitlines()
    first = lines.index(results.HEAD) + 2
    rows = [line.split()[1] for line in lines[first : lines.index("", first)]]
    assert rows and rows == [name for name in results.ROWS if name in rows]


def test_a_row_s_line_tells_mean_and_spread_over_seeds():
    row = results.Row("sentiment.py", results.ACCURACY, "")
    measured = [
        [{"test_accuracy": accuracy, "seconds": seconds, "parameters": 1234, "cell": "lstm"}]
        for accuracy, seconds in ((0.91, 100.4), (0.92, 130.0), (0.93, 110.0))
    ]
    assert results.line("reviews", row, measured) == (
        "| reviews | `examples/sentiment.py` | accuracy 0.9200 ± 0.0100 | 3 "
        "| 100 to 130 s | 1,234 |"
    )


def test_only_the_line_of_a_row_is_rewritten():
    text = f"# A\n\n{results.HEAD}\n| - |\n| one | 1 |\n| two | 2 |\n\nEnd\n"
    replaced = results.rewritten(text, "two", "| two | 3 |")
    assert replaced == text.replace("| two | 2 |", "| two | 3 |")
    added = results.rewritten(text, "three", "| three | 3 |")
    assert added == text.replace("| two | 2 |\n", "| two | 2 |\n| three | 3 |\n")
    table = f"{results.HEAD}\n| - |\n| sentiment | 1 |\n| memory-100 | 2 |\n"
    first, *rest = table.splitlines(True)[:3]
    assert results.rewritten(table, "characters", "| characters | 3 |") == (
        first + "".join(rest) + "| characters | 3 |\n| memory-100 | 2 |\n"
    )
    with pytest.raises(SystemExit, match="no table"):
        results.rewritten("# A\n", "one", "| one |")


def test_sequences_to_add_have_a_mark_in_each_half_and_who_says_1_errs_by_a_sixth():
    x, sums = (a.numpy() for a in long_memory.sequences([1, 2], 20_000, 10))
    numbers, marks = x[..., 0], x[..., 1]
    assert set(np.unique(marks)) == {0, 1}
    assert (marks[:, :5].sum(1) == 1).all() and (marks[:, 5:].sum(1) == 1).all()
    np.testing.assert_allclose((numbers * marks).sum(1), sums[:, 0], rtol=1e-6)
    assert np.mean((sums - 1) ** 2) == pytest.approx(long_memory.BASELINE, abs=0.005)
    again, other = (long_memory.sequences(seed, 20_000, 10)[0] for seed in ([1, 2], [1, 3]))
    assert np.array_equal(again, x) and not np.array_equal(other, x)


@pytest.mark.slow
def test_a_gru_learns_to_add_and_the_picture_is_drawn(tmp_path):
    options = "--length 20 --cell GRU --units 16 --minutes 2".split()
    said = said_here("long_memory.py", *options, cwd=tmp_path)
    result = json.loads(said.splitlines()[-1])
    assert result["error"] < long_memory.SOLVED and result["length"] == 20
    assert (tmp_path / "long_memory.png").stat().st_size > 5000
