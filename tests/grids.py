"""Which combinations of a grid are run every time, which in the slow part, and which seldom.

Every time: combinations that together hold every value, or a fourth of these if the test is also
`sampled`. Slow: every twelfth of those that it takes to hold every pair of values, too. `make
test-all` runs all combinations.
"""

import collections
import itertools
import os

import pytest

WHOLE = "WHOLE_GRIDS" in os.environ


def grid(combinations):
    """Returns combinations as parameters, those beyond the ones that hold every value as slow."""
    combinations = list(combinations)
    values = holding(combinations, 1)
    pairs = sorted(holding(combinations, 2) - values)
    kept = {*range(len(combinations))} - values if WHOLE else set(pairs[::12])
    return [
        pytest.param(*c, marks=() if place in values else pytest.mark.slow)
        for place, c in enumerate(combinations)
        if place in values or place in kept
    ]


def holding(combinations, together):
    """Returns the places of few combinations that hold whatever values stand together in some.

    Two of them, for `together=2`: a fault that hangs on two values is found by these combinations.
    Of equally good ones the combination is chosen whose values were chosen least, so that families
    and masks take turns.
    """
    values = [list(enumerate(c)) for c in combinations]
    held = [set(itertools.combinations(of, together)) for of in values]
    missing, chosen, used = set().union(*held), set(), collections.Counter()
    while missing:
        best = max(
            range(len(held)),
            key=lambda place: (len(held[place] & missing), -sum(used[v] for v in values[place])),
        )
        chosen.add(best)
        missing -= held[best]
        used.update(values[best])
    return chosen


def in_full_for(families, parameters):
    """Returns parameters without the slow ones of all families but these.

    What is common to all families is held in full by a few.
    """
    return [p for p in parameters if not p.marks or {*families} & {*map(str, p.values)}]


def product(*values):
    """Returns the `grid` of all combinations of some values."""
    return grid(itertools.product(*values))
