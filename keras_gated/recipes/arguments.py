"""Checks of what the recipes are given."""

import operator


def check_whole(owner, least, why="", **values):
    """Raises a `ValueError` unless the values are whole numbers, none of them below `least`.

    Args:
        owner: The name of the function or class that was called.
        least: The smallest number that is accepted.
        why: What the message says after it.
        values: The arguments by name.
    """
    try:
        smallest, way_out = min(map(operator.index, values.values())), ""
    except TypeError:
        smallest, way_out = None, ". Give whole numbers, not text or fractions."
    if smallest is None or smallest < least:
        received = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise ValueError(
            f"{owner}: {' and '.join(f'`{name}`' for name in values)} must be at least {least}"
            f"{why}. Received: {received}{way_out}"
        )
