"""Whole reviews with the other verdict: words give way to their opposites, found in reviews."""

import pytest

from keras_gated.recipes.opposites import Opposites

SUBJECTS = "plot", "acting", "music", "voice", "scene"


def reviews():
    """Sixty strings; those of label 1 praise with two words, the others blame with two."""
    texts, labels = [], []
    for number in range(30):
        subject = SUBJECTS[number % len(SUBJECTS)]
        for label, (one, another) in enumerate((("dull", "hated"), ("moving", "loved"))):
            actor = ("Rex Stone", "Anna Hill")[label]
            texts.append(
                f"the {subject} was {one} . we {another} the {subject} . we saw {actor} in a town ."
            )
            labels.append(label)
    return texts, labels


@pytest.fixture(scope="module")
def opposites():
    return Opposites(*reviews(), least=5)


def test_opposites_stand_between_the_same_words_in_reviews_of_either_label(opposites):
    assert opposites.of["dull"][0] == "moving" and opposites.of["moving"][0] == "dull"
    assert opposites.of["loved"][0] == "hated" and opposites.of["hated"][0] == "loved"


def test_names_and_words_that_tell_nothing_have_no_opposite(opposites):
    assert set(opposites.of) == {"dull", "moving", "loved", "hated"}


def test_a_turned_review_differs_in_its_verdict_alone(opposites):
    turned = list(opposites.turned(seed=1))
    assert len(turned) == 60 and sum(label for _, label in turned) == 30
    tokens, label = turned[0]
    assert label == 1
    expected = "the plot was moving . we loved the plot . we saw rex stone in a town ."
    assert " ".join(tokens) == expected


def test_a_review_is_not_turned_if_what_it_says_then_does_not_tell_the_new_label(opposites):
    texts, labels = reviews()
    mixed = "the plot was dull . we hated the plot . the voice was moving . we loved the voice ."
    mended = Opposites([*texts, mixed], [*labels, 0], least=5)
    assert sum(1 for _ in mended.turned(seed=1)) == 60


def test_the_same_seed_turns_reviews_in_the_same_way(opposites):
    assert list(opposites.turned(seed=2)) == list(opposites.turned(seed=2))


def test_no_reviews_have_no_opposites():
    nothing = Opposites([], [])
    assert nothing.of == {} and list(nothing.turned(seed=1)) == []
