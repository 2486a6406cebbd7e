"""Each review that docs, page, cards and docstrings show is read rightly by the shipped model.

The texts are collected from the files, and said here to be positive or negative by a person.
"""

import html
import json
import pathlib
import re
import shlex

import pytest
import tensorflow as tf
from ask import newest_version

ROOT = pathlib.Path(__file__).parent.parent

POSITIVE = {
    "Not dull at all, a moving film.",
    "It is not a great film, but I enjoyed it.",
    "Not a great film, but I enjoyed it.",
    "A moving film, wonderfully acted.",
    "The humour was rather clumsy, but the story was moving.",
}
NEGATIVE = {
    "Boring.",
    "Boring and far too long.",
    "A waste of two hours.",
}
OF_CHARACTERS = {"tiny_shakespeare", "shakespeare", "toy_plays"}  # these models get prompts


def commands(source):
    """Returns the reviews that command lines of a file give to a sentiment model."""
    found = set()
    for line in source.replace("\\\n", " ").splitlines():
        command = re.search(r"examples/(ask|look_inside|query)\.py(.*?)(`|$)", line)
        if not command:
            continue
        what, *given = shlex.split(command[2], comments=True) or [""]
        model = what.removeprefix("saved_models/")
        if what == "classify" or model not in {what, *OF_CHARACTERS}:
            found.update(text for text in given if " " in text or text.endswith("."))
    return found - {"..."}


def requests(source):
    """Returns the reviews in the bodies of `curl` calls of a file."""
    found = set()
    for body in re.findall(r"curl -d '(\{.*?\})'", source, re.DOTALL):
        asked = json.loads(body)
        found.update(asked.get("instances", []))
        found.update(asked.get("inputs", {}).get("text", []))
    return found


def shown():
    """Returns text to the files that show it."""
    places = {}
    files = [ROOT / "README.md", *ROOT.glob("saved_models/*.md"), *ROOT.glob("saved_models/*/*.md")]
    for pattern in ("docs/**/*.md", "examples/*.py", "keras_gated/**/*.py"):
        files += ROOT.glob(pattern)
    for file in files:
        source = file.read_text()
        for text in commands(source) | requests(source):
            places.setdefault(text, []).append(file.name)
    page = (ROOT / "examples" / "try_models.html").read_text()
    [review] = re.findall(r'<textarea id="review"[^>]*>(.*?)</textarea>', page, re.DOTALL)
    places.setdefault(html.unescape(review), []).append("try_models.html")
    return places


SHOWN = shown()


@pytest.fixture(scope="module")
def classifier():
    return tf.saved_model.load(str(newest_version(ROOT / "saved_models" / "sentiment")))


def test_texts_are_found_in_all_kinds_of_files():
    files = {file for places in SHOWN.values() for file in places}
    assert {"examples.md", "try_models.html", "ask.py", "look_inside.py", "query.py"} <= files


@pytest.mark.sampled
@pytest.mark.parametrize("text", sorted(SHOWN))
def test_a_shown_text_is_read_rightly_by_the_shipped_classifier(text, classifier):
    assert text in POSITIVE | NEGATIVE, f"{SHOWN[text]}: is this text positive or negative?"
    answer = classifier.signatures["serving_default"](text=tf.constant([text]))
    assert bool(answer["label"][0]) == (text in POSITIVE)


def test_no_text_is_kept_here_that_nobody_is_shown():
    assert set(SHOWN) == POSITIVE | NEGATIVE
