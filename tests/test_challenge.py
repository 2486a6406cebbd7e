"""The challenge asks short sentences, and the shipped model's card tells how it did."""

import collections
import json
import pathlib
import random
import re

import challenge
import pytest
import scripts
import tensorflow as tf

ROOT = pathlib.Path(__file__).parent.parent


def test_each_capability_has_fifty_different_cases_half_of_them_positive():
    cases = challenge.cases()
    assert cases == challenge.cases() != challenge.cases(seed=2)
    count = collections.Counter((case.capability, case.label) for case in cases)
    assert count == {(name, label): 25 for name in challenge.TEMPLATES for label in (0, 1)}
    assert len({case.texts for case in cases}) == len(cases)


@pytest.mark.parametrize(
    ("template", "label", "words"),
    [
        ("The {a} was not {y}.", 1, challenge.BAD),
        ("A {x} film. {events}", 0, challenge.BAD),
        ("As a {genre} it is {x}.", 1, challenge.GOOD),
    ],
)
def test_a_template_takes_the_words_that_its_label_asks_for(template, label, words):
    for text in challenge.written(random.Random(1), template, label):
        assert sum(word in re.findall(r"\w+", text) for word in words) == 1


def test_a_case_is_right_if_each_of_its_texts_is():
    cases = challenge.cases()
    right = {text: case.label for case in cases for text in case.texts}
    perfect, wrong = challenge.shares(lambda texts: [right[text] for text in texts])
    assert set(perfect.values()) == {1.0} and not wrong
    [case] = [case for case in cases if case.capability == "names"][:1]
    right[case.texts[-1]] = 1 - case.label
    spoilt, wrong = challenge.shares(lambda texts: [right[text] for text in texts])
    assert [text for text, _ in wrong] == [case.texts[-1]]
    assert spoilt["names"] == 0.98 and spoilt["genres"] == 1.0
    always, _ = challenge.shares(lambda texts: [0.9] * len(texts))
    assert set(always.values()) == {0.5}


def test_the_card_of_the_shipped_model_tells_what_the_script_measures():
    said = scripts.said_here("challenge.py", ROOT / "saved_models" / "sentiment")
    measured = json.loads(said.splitlines()[-1])
    card = (ROOT / "saved_models" / "sentiment" / "model_card.md").read_text()
    told = {
        name: float(share) for name, share in re.findall(r"^\| (\w+) \| ([\d.]+) \|$", card, re.M)
    }
    assert told == measured
    assert measured["all"] >= 0.9


def test_a_model_of_characters_is_refused():
    with pytest.raises(SystemExit, match=r"shakespeare holds no sentiment model"):
        scripts.said_here("challenge.py", ROOT / "saved_models" / "shakespeare")


def test_the_shipped_model_tells_praise_from_its_denial():
    model = tf.saved_model.load(str(ROOT / "saved_models" / "sentiment" / "1"))
    texts = [
        "I liked it.", "I did not like it.",
        "I enjoyed this film.", "I didn't enjoy this film.",
        "A good film.", "Not a good film.",
        "A film that I loved.", "A film that I hated.",
    ]  # fmt: skip
    answers = model.signatures["serving_default"](text=tf.constant(texts))
    assert answers["label"].numpy().tolist() == [1, 0] * 4
