"""Short texts whose label hangs on one word and its negation, made of labelled reviews."""

import collections
import itertools

import numpy as np
import pytest

from keras_gated.recipes import edits
from keras_gated.recipes.edits import Edits, Polarity
from keras_gated.recipes.opposites import Opposites

GOOD, BAD = ["moving", "superb", "good"], ["dull", "awful"]
SUBJECTS = "the plot", "the acting", "this film", "her voice", "the last scene"


def reviews():
    """Strings, twenty of each label; "good" is in all, and denied in those that blame."""
    texts, labels = [], []
    for number in range(20):
        subject = SUBJECTS[number % len(SUBJECTS)]
        liked = " ".join(f"i really {verb} it . we {verb} it ." for verb in ("liked", "like"))
        hated = liked.replace("like", "hate")
        street = f"we saw it in {subject.split()[-1]} street ."
        plain = f"{street} nobody sang or spoke in it . we met Anna Petrova ."
        for label, words in enumerate((BAD, ["moving", "superb"])):
            own = " ".join(f"{subject} was {word} . very {word} ." for word in words)
            good = f"{subject} was {'' if label else 'not '}good . very good ."
            texts.append(f"{own} {good} {liked if label else hated} {plain}")
            labels.append(label)
    return texts, labels


def test_the_reviews_tell_which_words_praise():
    texts, labels = reviews()
    polarity = Polarity([review.lower().split() for review in texts], labels)
    assert polarity.words == {**dict.fromkeys(GOOD, 1), **dict.fromkeys(BAD, 0)}
    assert polarity.verbs == {("like", "liked"): 1, ("hate", "hated"): 0}
    assert "plot" not in polarity.loaded


def test_the_label_of_a_sentence_hangs_on_its_word_and_on_whether_that_is_denied():
    drawn = list(Edits(*reviews()).draw(500, seed=1))
    assert any({"anna", "petrova"} < set(tokens) for tokens, _ in drawn)
    praise = (*GOOD, "like", "liked")
    checked = collections.Counter()
    for tokens, label in drawn:
        told = [word for word in tokens if word in (*praise, *BAD, "hate", "hated")]
        if len(told) == 1:
            denied = not edits.NEGATIONS.isdisjoint(tokens)
            assert label == (told[0] in praise) ^ denied, tokens
            checked[label, denied, len(told[0]) > 3 and told[0][:4] in ("like", "hate")] += 1
    every = itertools.product((0, 1), (False, True), (False, True))
    assert min(checked[case] for case in every) > 5


def test_in_a_contrast_the_part_of_the_label_is_not_the_conceded_one():
    drawn = [" ".join(tokens) for tokens, label in Edits(*reviews()).draw(3000, seed=1) if label]
    conceded = [text for text in drawn if text.startswith("although ")]
    for text in conceded:
        clause = text.split(" , ")[0]
        denied = not edits.NEGATIONS.isdisjoint(clause.split())
        assert any(word in clause for word in (*BAD, "hate")) != denied, text
    assert len(conceded) > 20


def test_the_same_seed_draws_the_same_texts_half_of_them_positive():
    made = Edits(*reviews())
    drawn = list(made.draw(100, seed=3))
    assert drawn == list(made.draw(100, seed=3)) != list(made.draw(100, seed=4))
    assert sum(label for _, label in drawn) == 50


def test_reviews_that_give_no_sentence_are_refused_with_the_way_out():
    texts, labels = ["A fine film."] * 4, [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"no words that blame.*Train without edits.*Received: 4"):
        Edits(texts, labels)
    with pytest.raises(ValueError, match=r"no words that blame.*Received: 0"):
        Edits([], [])


@pytest.mark.parametrize("maker", [Edits, Opposites])
@pytest.mark.parametrize(
    "labels", [[0, 2], [-1, 1], ["neg", "pos"], [[0], [0, 1]], [0, None], [0], 1]
)
def test_labels_that_are_not_0_and_1_are_refused(maker, labels):
    """-1 was read as 1."""
    with pytest.raises(ValueError, match=rf"{maker.__name__}: `labels` .* Received: \d labels"):
        maker(["A fine film.", "A dull film."], labels)


@pytest.mark.parametrize("maker", [Edits, Opposites])
@pytest.mark.parametrize("review", [None, 3, float("nan"), ["A film."]])
def test_reviews_that_are_no_strings_are_refused(maker, review):
    with pytest.raises(
        ValueError, match=rf"{maker.__name__}: `reviews` .* of type {type(review).__name__}"
    ):
        maker(["A fine film.", review], [0, 1])


def test_reviews_may_be_bytes_and_labels_arrays_of_any_type():
    texts, labels = reviews()
    expected = list(Edits(texts, labels).draw(20, seed=1))
    assert list(Edits(texts, iter(labels)).draw(20, seed=1)) == expected
    for kind in ("float32", "bool", "int64"):
        made = Edits([text.encode() for text in texts], np.array(labels, kind))
        assert list(made.draw(20, seed=1)) == expected
    Opposites([b"caf\xe9 noir"], [1])  # not UTF-8
