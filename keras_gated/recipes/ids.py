"""The ids that have the same meaning in every vocabulary."""

PADDING, UNKNOWN = 0, 1
FIRST = 2  # the id of the first entry of a vocabulary
