"""Activations that Keras 3 does not have."""

import dataclasses
import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_gated")
@dataclasses.dataclass(frozen=True)  # equal objects share a cache entry: see `equations.py`
class HardSigmoid:
    """`clip(slope * x + offset, 0, 1)`: see `hard_sigmoid`."""

    slope: float = 0.2
    offset: float = 0.5

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise ValueError(
                    f"hard_sigmoid: `{name}` must be a finite number. Received: {name}={value!r}. "
                    "Leave it out for that of Keras 2: slope=0.2, offset=0.5."
                )
            object.__setattr__(self, name, number)

    def __call__(self, x):
        return ops.clip(self.slope * x + self.offset, 0.0, 1.0)

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def hard_sigmoid(slope: float = 0.2, offset: float = 0.5) -> HardSigmoid:
    """Returns the activation `clip(slope * x + offset, 0, 1)`, for any layer.

    The output has the shape of the input. The defaults are the `hard_sigmoid` of Keras 1 and 2,
    Theano and ONNX; `keras.activations.hard_sigmoid` of Keras 3 is another function, with a slope
    of 1/6. For example: `keras_gated.LSTM(64, recurrent_activation=keras_gated.hard_sigmoid())`.

    Args:
        slope: The slope between 0 and 1. ONNX calls it alpha.
        offset: The value at 0. ONNX calls it beta.

    Raises:
        ValueError: If `slope` or `offset` is not a finite number.

    Reference: `hard_sigmoid` of Keras 2 (`keras.backend.hard_sigmoid`); ONNX's `HardSigmoid`.
    """
    return HardSigmoid(slope, offset)
