"""Which combinations of a grid are run every time, which in the slow part, and which never.

Of those that no pair of values needs, every sixth is `slow`. `make test-all` runs all of them.
"""

import itertools
import os

import pytest

WHOLE = "WHOLE_GRIDS" in os.environ


def parameters(combinations, chosen):
    """Returns parameters of the chosen combinations, and of every sixth of the others as `slow`."""
    others = [place for place, c in enumerate(combinations) if not chosen(place)]
    kept = set(others if WHOLE else others[::6])
    return [
        pytest.param(*c, marks=() if chosen(place) else pytest.mark.slow)
        for place, c in enumerate(combinations)
        if chosen(place) or place in kept
    ]


def pairwise(combinations, together=2):
    """Returns combinations as parameters, those that hold every pair of values run every time.

    They are few, and hold every pair that some combination holds: a fault that hangs on two values
    is found by them. With `together=1` they hold every value.
    """
    combinations = list(combinations)
    held = [set(itertools.combinations(enumerate(c), together)) for c in combinations]
    missing, chosen = set().union(*held), set()
    while missing:
        best = max(range(len(held)), key=lambda place: len(held[place] & missing))
        chosen.add(best)
        missing -= held[best]
    return parameters(combinations, chosen.__contains__)


def every_third(names, start):
    """Returns every third of some names as parameters; the others are for `make test-all`.

    Tests of many families begin at different places, so that together they hold every family.
    """
    places = [(place + start) % 3 for place in range(len(names))]
    return [
        pytest.param(name, marks=pytest.mark.slow if third else ())
        for name, third in zip(names, places, strict=True)
        if not third or WHOLE
    ]


def in_full_for(families, parameters):
    """Returns parameters without the slow ones of all families but these.

    What is common to all families is held in full by a few.
    """
    return [p for p in parameters if not p.marks or {*families} & {*map(str, p.values)}]


def product(*values, together=2):
    """Returns `pairwise` of all combinations of some values."""
    return pairwise(itertools.product(*values), together)
