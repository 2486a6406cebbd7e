"""Finds units whose memory tracks a property of the inputs."""

from typing import NamedTuple

import keras
import numpy as np

from keras_gated.inside.trace import named, trace_gates


class Unit(NamedTuple):
    """A unit of a recurrent layer, and how closely its memory follows a property."""

    layer: str  # the layer's name; a direction of a `Bidirectional` is `name/direction`
    unit: int
    correlation: float  # with the property, -1 to 1, over the steps of the first, third, ... row
    held_out: float  # the same over the second, fourth, ... row, which did not choose the unit


def find_units(
    model: keras.Model, inputs, values, layer=None, top: int = 10, batch_size: int = 32
) -> list[Unit]:
    """Returns the units of a model whose memory tracks a property best.

    The memory of a unit is the `memory` of an LSTM, and `hidden` in other layers. Among many
    units, some follow any property by chance. So units are ranked on half of the rows (the first,
    third, ...), and the result also has their correlation on the other half.

    Args:
        model: A model with recurrent layers of keras_gated.
        inputs: The inputs of the model, an array `(rows, time, ...)`.
        values: The property at each step, numbers `(rows, time)`. For example 1 inside a quotation
            and 0 outside, or the position in the line. NaN leaves a step out (padding).
        layer: Optional name of a layer, if only this layer is wanted. Default: all.
        top: Number of units to return.
        batch_size: Number of rows in one call of the model.

    Returns:
        A list of `Unit`, sorted by the absolute value of the correlation, largest first.

    Raises:
        ValueError: If shapes do not fit, or the property is the same at all steps of a half.

    Reference: Karpathy, Johnson and Fei-Fei 2015, arXiv:1506.02078, section 4.1.
    """
    inputs, values = np.asarray(inputs), np.asarray(values, "float64")
    if values.ndim != 2 or values.shape != inputs.shape[:2] or len(inputs) < 2:
        raise ValueError(
            "find_units: `values` must hold a number for every step of at least two rows, "
            f"(rows, time) = {inputs.shape[:2]}. Received: values.shape={values.shape}."
        )
    sums = {}
    for first in range(0, len(inputs), batch_size):
        rows = slice(first, first + batch_size)
        traces = trace_gates(model, inputs[rows])
        traces = traces if layer is None else {k: v for k, v in traces.items() if k == layer}
        for name, gates in named(traces):
            memory = np.asarray(gates.get("memory", gates["hidden"]), "float64")
            own = sums.setdefault(name, [_Sums(), _Sums()])
            for half in (0, 1):
                # The first row of a batch may have an odd number.
                of_half = slice((half + first) % 2, None, 2)
                counts = ~np.isnan(values[rows][of_half])
                own[half].add(memory[of_half][counts], values[rows][of_half][counts])
    if not sums:
        raise ValueError(f"find_units: the model has no recurrent layer {layer!r}.")
    found = []
    for name, halves in sums.items():
        both = zip(*(half.correlations() for half in halves), strict=True)
        found += [Unit(name, unit, *map(float, pair)) for unit, pair in enumerate(both)]
    return sorted(found, key=lambda unit: -abs(unit.correlation))[:top]


class _Sums:
    """The sums that give correlations, added up batch by batch."""

    def __init__(self):
        self.number, self.y, self.yy, self.x, self.xx, self.xy = 0, 0.0, 0.0, 0.0, 0.0, 0.0

    def add(self, x, y):
        """Adds steps: x `(steps, units)`, y `(steps,)`."""
        self.number += len(y)
        self.y, self.yy = self.y + y.sum(), self.yy + (y * y).sum()
        self.x, self.xx = self.x + x.sum(0), self.xx + (x * x).sum(0)
        self.xy = self.xy + y @ x

    def correlations(self):
        """Returns Pearson's correlation of each unit, 0 for a unit that never changes."""
        n = max(self.number, 1)
        of_y = self.yy / n - (self.y / n) ** 2
        if of_y <= 1e-12 * max(self.yy / n, 1e-300):
            raise ValueError(
                "find_units: the property is the same at every step that counts, of the rows of "
                "one half. Give it more rows, or another property."
            )
        of_x = np.maximum(self.xx / n - (self.x / n) ** 2, 0)
        together = self.xy / n - self.x * self.y / n**2
        still = of_x <= 1e-12 * np.maximum(self.xx / n, 1e-300)
        return np.where(still, 0, together / np.sqrt(np.where(still, 1, of_x) * of_y))
