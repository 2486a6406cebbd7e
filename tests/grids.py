"""Which combinations of a grid are run every time, and which with `make test-all` only."""

import itertools

import pytest


def pairwise(combinations):
    """Returns all combinations as parameters; those that no pair of values needs are `slow`.

    The others are few and hold every pair of values that some combination holds: a fault that
    hangs on two values is found by them.
    """
    combinations = list(combinations)
    pairs = [set(itertools.combinations(enumerate(c), 2)) for c in combinations]
    missing, chosen = set().union(*pairs), set()
    while missing:
        best = max(range(len(pairs)), key=lambda place: len(pairs[place] & missing))
        chosen.add(best)
        missing -= pairs[best]
    return [
        pytest.param(*c, marks=() if place in chosen else pytest.mark.slow)
        for place, c in enumerate(combinations)
    ]


def product(*values):
    """Returns `pairwise` of all combinations of some values."""
    return pairwise(itertools.product(*values))
