"""Which combinations of a grid are run every time, and which with `make test-all` only."""

import itertools

import pytest


def pairwise(combinations, together=2):
    """Returns all combinations as parameters; those that no pair of values needs are `slow`.

    The others are few and hold every pair of values that some combination holds: a fault that
    hangs on two values is found by them. With `together=1` they hold every value.
    """
    combinations = list(combinations)
    held = [set(itertools.combinations(enumerate(c), together)) for c in combinations]
    missing, chosen = set().union(*held), set()
    while missing:
        best = max(range(len(held)), key=lambda place: len(held[place] & missing))
        chosen.add(best)
        missing -= held[best]
    return [
        pytest.param(*c, marks=() if place in chosen else pytest.mark.slow)
        for place, c in enumerate(combinations)
    ]


def every_third(names, start):
    """Returns names as parameters, all but every third of them `slow`.

    Tests of many families begin at different places, so that together they hold every family.
    """
    return [
        pytest.param(name, marks=() if (place + start) % 3 == 0 else pytest.mark.slow)
        for place, name in enumerate(names)
    ]


def in_full_for(families, parameters):
    """Returns parameters without the slow ones of all families but these.

    What is common to all families is held in full by a few.
    """
    return [p for p in parameters if not p.marks or {*families} & {*map(str, p.values)}]


def product(*values, together=2):
    """Returns `pairwise` of all combinations of some values."""
    return pairwise(itertools.product(*values), together)
