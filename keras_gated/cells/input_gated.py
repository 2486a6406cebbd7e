"""Cells whose gates see only the inputs, so that a step needs no matrix product."""

from keras_gated.cells.base import GatedCell


class InputGatedCell(GatedCell):
    """A cell without a recurrent kernel."""

    without = ("recurrent_initializer", "recurrent_regularizer", "recurrent_constraint",
               "recurrent_dropout", "recurrent_weight_dropout")  # fmt: skip

    def __init__(self, units: int, activation="linear", **kwargs):
        super().__init__(units, activation, **kwargs)

    def weight_shapes(self, features):
        shapes = super().weight_shapes(features)
        return {name: shape for name, shape in shapes.items() if name != "recurrent_kernel"}
