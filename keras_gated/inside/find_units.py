"""Finds units whose memory tracks a property of the inputs."""

from typing import NamedTuple

import keras
import numpy as np
from keras import tree

from keras_gated.cells.arguments import positive_integer
from keras_gated.inside.trace import named, traces


class Unit(NamedTuple):
    """A unit of a recurrent layer, and how closely its memory follows a property."""

    layer: str  # the layer's name; a direction of a `Bidirectional` is `name/direction`
    unit: int
    correlation: float  # with the property, -1 to 1, over the steps of the first, third, ... row
    held_out: float  # the same over the second, fourth, ... row, which did not choose the unit


def find_units(
    model: keras.layers.Layer, inputs, values, layer=None, top: int = 10, batch_size: int = 32
) -> list[Unit]:
    """Returns the units of a model whose memory tracks a property best.

    The memory of a unit is the `memory` of an LSTM, and `hidden` in other layers. Among many
    units, some follow any property by chance. So units are ranked on half of the rows (the first,
    third, ...), and the result also has their correlation on the other half.

    Args:
        model: A model or layer as for `trace_gates`.
        inputs: The inputs of the model, an array `(rows, ...)`. For a model with several inputs, a
            dict, tuple or list of such arrays, as the model takes it.
        values: The property at each step of the layers, numbers `(rows, time)`. For example 1
            inside a quotation and 0 outside, or the position in the line. NaN leaves a step out
            (padding).
        layer: Optional layer, or its name in the result, if only this layer is wanted. A
            `Bidirectional` may be named, too. Default: all.
        top: Number of units to return.
        batch_size: Number of rows in one call of the model.

    Returns:
        A list of `Unit`, sorted by the absolute value of the correlation, largest first.

    Raises:
        ValueError: If shapes do not fit, if the property is the same at all steps of a half, if
            `values` or the memory at a step that counts are not finite, or as `trace_gates`.

    Reference: Karpathy, Johnson and Fei-Fei 2015, arXiv:1506.02078, section 4.1.
    """
    top = positive_integer("find_units", "top", top)
    batch_size = positive_integer("find_units", "batch_size", batch_size)
    inputs, values = _arrays(model, inputs), np.array(values, "float64")
    shapes = [np.shape(x) for x in tree.flatten(inputs)]
    if values.ndim != 2 or len(values) < 2 or any(s[:1] != values.shape[:1] for s in shapes):
        raise ValueError(
            "find_units: `values` must hold a number for every step of at least two rows, "
            f"(rows, time), and `inputs` arrays with as many rows. Received: "
            f"values.shape={values.shape}, inputs of the shapes {shapes}."
        )
    for half in (0, 1):
        values[half::2] = _standardized(values[half::2])
    sums = {}
    for first in range(0, len(values), batch_size):
        rows = slice(first, first + batch_size)
        batch = tree.map_structure(lambda x, rows=rows: x[rows], inputs)
        for name, gates in named(traces("find_units", model, batch, layer=layer)):
            memory = gates.get("memory", gates["hidden"])
            memory = keras.ops.convert_to_numpy(memory).astype("float64")
            if memory.shape[:2] != values[rows].shape:
                raise ValueError(
                    "find_units: `values` must hold a number for every step of the layer, "
                    f"(rows, time) = {(len(values), *memory.shape[1:2])} for {name!r}. Received: "
                    f"values.shape={values.shape}. `layer` chooses a layer that has these steps."
                )
            own = sums.setdefault(name, [_Sums(), _Sums()])
            for half in (0, 1):
                # The first row of a batch may have an odd number.
                of_half = slice((half + first) % 2, None, 2)
                counts = ~np.isnan(values[rows][of_half])
                x = memory[of_half][counts]
                if not np.isfinite(x).all():
                    raise ValueError(
                        f"find_units: the memory of {name!r} holds NaN or infinity at a step that "
                        "counts. Look for such numbers in `inputs` and in the weights, or leave "
                        "the step out (NaN in `values`)."
                    )
                own[half].add(x, values[rows][of_half][counts])
    found = []
    for name, halves in sums.items():
        both = zip(*(half.correlations() for half in halves), strict=True)
        found += [Unit(name, unit, *map(float, pair)) for unit, pair in enumerate(both)]
    return sorted(found, key=lambda unit: -abs(unit.correlation))[:top]


def _arrays(model, inputs):
    """Returns inputs as NumPy arrays, in the structure that the model takes.

    A list may also be the rows of a single array, so the number of inputs of the model counts. A
    model of its own class does not tell it, and takes several inputs as a dict or tuple.
    """
    number = len(getattr(model, "inputs", None) or ())
    if isinstance(inputs, dict):
        return {name: np.asarray(x) for name, x in inputs.items()}
    if isinstance(inputs, (tuple, list) if number > 1 else () if number else tuple):
        return type(inputs)(np.asarray(x) for x in inputs)
    return np.asarray(inputs)


def _standardized(values):
    """Returns the values of one half with mean 0 and variance 1. So no digits are lost later."""
    counts = ~np.isnan(values)
    least, most = (f(values[counts]) if counts.any() else 0 for f in (np.min, np.max))
    if least == most:
        raise ValueError(
            "find_units: the property is the same at every step that counts, of the rows of "
            "one half. Give it more rows, or another property."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        values = values - least  # the mean of Unix times has too few digits
        spread = values[counts].std()
    if not 0 < spread < np.inf:
        raise ValueError(
            "find_units: `values` must hold finite numbers whose variance float64 can hold, or NaN "
            f"at a step that does not count. Received: numbers from {least} to {most}."
        )
    return (values - values[counts].mean()) / spread


class _Sums:
    """The sums that give correlations, added up batch by batch."""

    def __init__(self):
        self.number, self.x, self.xx, self.xy = 0, 0.0, 0.0, 0.0

    def add(self, x, y):
        """Adds steps: x `(steps, units)`, y `(steps,)`, which has mean 0 and variance 1 in all."""
        self.number += len(y)
        self.x, self.xx = self.x + x.sum(0), self.xx + (x * x).sum(0)
        self.xy = self.xy + y @ x

    def correlations(self):
        """Returns Pearson's correlation of each unit, 0 for a unit that never changes."""
        of_x = np.maximum(self.xx / self.number - (self.x / self.number) ** 2, 0)
        still = of_x <= 1e-12 * np.maximum(self.xx / self.number, 1e-300)
        return np.where(still, 0, self.xy / self.number / np.sqrt(np.where(still, 1, of_x)))
