"""`make demo`, as a newcomer runs it first: the network learns, and nothing is in the way."""

import csv
import re

import pytest
from scripts import ROOT, said_here
from test_shown_texts import POSITIVE

pytestmark = pytest.mark.slow


def test_the_loss_of_the_network_goes_down_from_the_first_epoch(trained):
    """Saying 0.5 of every review costs ln 2 = 0.693 nats."""
    [table] = trained.folder.glob("logs/toy_reviews/*/history.csv")
    epochs = list(csv.DictReader(table.open()))
    for name in ("loss", "val_loss"):
        losses = [0.65, *(float(epoch[name]) for epoch in epochs)]
        assert losses == sorted(losses, reverse=True)
    assert float(epochs[-1]["val_review_accuracy"]) > 0.95  # words without order: 0.63 at most
    assert "NGrams" not in trained.demo.stdout  # the network alone


def test_the_three_texts_are_answered_rightly(trained):
    answers = re.findall(
        r"^(positive|negative)  \d\.\d{3}  (.+)$", trained.demo.stdout, re.MULTILINE
    )
    assert [answer for answer, _ in answers] == ["positive", "negative", "positive"]


def test_nothing_is_printed_but_the_training_and_the_answers(trained):
    noise = re.compile(r"warning|[IWEF]0000 |oneDNN|absl::|CUDA|unsaved", re.IGNORECASE)
    said = trained.demo.stdout + trained.demo.stderr
    assert [line for line in said.splitlines() if noise.search(line)] == []


def test_the_last_line_says_what_to_do_next(trained):
    lines = [one for one in trained.demo.stdout.splitlines() if not one.startswith("make[")]
    [command] = re.findall(r"^Next: run '(.+?)',", lines[-1])
    [target] = re.findall(r"^make (\w+)$", command)
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    served = (ROOT / "examples" / "stand_in_server.py").read_text()
    [port] = re.findall(r'"--rest-port", type=int, default=(\d+)', served)
    assert f"http://localhost:{port}/" in lines[-1]


def test_the_text_of_the_examples_page_is_answered_rightly_by_the_model_of_the_demo(trained):
    [text] = re.findall(
        r'ask\.py saved_models/toy_reviews "(.+?)"', (ROOT / "docs" / "examples.md").read_text()
    )
    said = said_here("ask.py", trained.folder / "saved_models/toy_reviews", text)
    assert said.split()[0] == ("positive" if text in POSITIVE else "negative")
