"""How a sequence runs through a cell: the loops over time."""
