"""The notebooks run from top to bottom, and what is stored in them is what they print."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def without_numbers(said):
    """Words alone: the last digits of a number are not the same on every machine."""
    return re.sub(r"[+-]?\d[\d.]*(e[+-]?\d+)?", "#", said).split()


@pytest.mark.long
@each
@pytest.mark.slow
def test_a_notebook_runs_and_prints_what_is_stored_in_it(path, tmp_path):
    """In a fresh process; Jupyter adds but the display of figures."""
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(map(source, cells(path, "code"))))
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
    stored = ["".join(o["text"]) for o in outputs if o.get("name") == "stdout"]
    assert without_numbers(done.stdout) == without_numbers("".join(stored))


@each
def test_a_notebook_is_stored_as_it_was_run_from_top_to_bottom(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    shown = sum("image/png" in output.get("data", {}) for output in outputs)
    assert shown == sum("plt.show()" in line for line in executed(code))
    assert path.stat().st_size < 200_000


def executed(code):
    """Yields the lines that run once each: of a function that draws, its calls."""
    for line in "\n".join(map(source, code)).splitlines():
        if line.startswith("draw("):
            yield "plt.show()"
        elif line.startswith("plt.show()"):
            yield line


@each
def test_links_of_a_notebook_lead_to_files_and_the_examples_page_leads_to_it(path):
    text = "\n".join(map(source, cells(path, "markdown")))
    targets = re.findall(r"\]\(([^)#]+)", text)
    assert targets and all((path.parent / target).is_file() for target in targets)
    assert f"(../notebooks/{path.name})" in (ROOT / "docs" / "examples.md").read_text()
