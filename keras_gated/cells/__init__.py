"""The cells: the equations of one step, and what a cell is built of."""
