"""`make demo`, as a newcomer runs it first: the network learns, and nothing is in the way."""

import csv
import os
import pathlib
import re
import subprocess
import sys

import pytest
from test_shown_texts import POSITIVE

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder and the output of a run. All is installed already, but no data set is prepared."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("Makefile", "examples", "setup.cfg", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "examples.installed").touch()
    environment = {**os.environ, "TFDS_DATA_DIR": str(folder / "data")}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = ["make", "demo", "VENV=.", f"RUN={sys.executable}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


def test_the_loss_of_the_network_goes_down_from_the_first_epoch(demo):
    """Saying 0.5 of every review costs ln 2 = 0.693 nats."""
    folder, done = demo
    [table] = folder.glob("logs/toy_reviews/*/history.csv")
    epochs = list(csv.DictReader(table.open()))
    for name in ("loss", "val_loss"):
        losses = [0.65, *(float(epoch[name]) for epoch in epochs)]
        assert losses == sorted(losses, reverse=True)
    assert float(epochs[-1]["val_review_accuracy"]) > 0.95  # words without order: 0.63 at most
    assert "NGrams" not in done.stdout  # the network alone


def test_the_three_texts_are_answered_rightly(demo):
    _, done = demo
    answers = re.findall(r"^(positive|negative)  \d\.\d{3}  (.+)$", done.stdout, re.MULTILINE)
    assert [answer for answer, _ in answers] == ["positive", "negative", "positive"]


def test_nothing_is_printed_but_the_training_and_the_answers(demo):
    _, done = demo
    noise = re.compile(r"warning|[IWEF]0000 |oneDNN|absl::|CUDA|unsaved", re.IGNORECASE)
    assert [line for line in (done.stdout + done.stderr).splitlines() if noise.search(line)] == []


def test_the_texts_of_the_readme_are_answered_rightly_by_the_model_of_the_demo(demo):
    folder, _ = demo
    [text] = re.findall(
        r'ask\.py saved_models/toy_reviews "(.+?)"', (ROOT / "README.md").read_text()
    )
    asked = [sys.executable, "examples/ask.py", "saved_models/toy_reviews", text]
    done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == ("positive" if text in POSITIVE else "negative")
