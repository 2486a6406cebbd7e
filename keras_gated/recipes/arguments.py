"""Checks of what the recipes are given."""

import operator


def check_whole(owner, least, why="", **values):
    """Raises a `ValueError` unless the values are whole numbers, none of them below `least`.

    Args:
        owner: The name of the function or class that was called.
        least: The smallest number that is accepted.
        why: What the message says after it.
        values: The arguments by name.

    Returns:
        A list of the numbers as Python's integers, which do not overflow.
    """
    try:
        numbers, way_out = [operator.index(value) for value in values.values()], ""
    except TypeError:
        numbers, way_out = [], ". Give whole numbers, not text or fractions."
    if not numbers or min(numbers) < least:
        received = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise ValueError(
            f"{owner}: {' and '.join(f'`{name}`' for name in values)} must be at least {least}"
            f"{why}. Received: {received}{way_out}"
        )
    return numbers
