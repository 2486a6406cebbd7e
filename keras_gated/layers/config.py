"""The switch of a whole program: whether layers with `fused="auto"` may run the fused path."""

import contextvars
import os

from keras_gated.cells.arguments import boolean
from keras_gated.cells.context import holding

FUSED = ("auto", "compiled")  # what `fused` may be besides True and False
_fused = "auto"
_CHOOSE = contextvars.ContextVar("keras_gated_choose", default=None)


def set_fused(fused: bool | str) -> None:
    """Chooses what `fused="auto"`, the default of every layer, means in this program.

    A function that TensorFlow has traced keeps its loops. So call this before a model is fitted
    or called, or compile the model again.

    Args:
        fused: "auto" or True: a layer runs the fused path, or cuDNN, wherever that is valid.
            "compiled": also compiles the loops inside a `tf.function` of yours. False: a layer
            runs its cell in Keras's own loop. Layers with `fused=True`, `fused=False` or
            `use_cudnn=True` are not affected. The environment variable `KERAS_GATED_FUSED=0`
            starts a program with False.

    Raises:
        ValueError: For any other value.
    """
    global _fused
    _fused = boolean("set_fused", "fused", fused, FUSED)


def paths_chosen_by(choose):
    """Lets `choose(call)` return the path that runs a `Call`, whatever the layer's arguments."""
    return holding(_CHOOSE, choose)


def path_chosen(call):
    """Returns the path that is to run a call, or None: the layer decides."""
    choose = _CHOOSE.get()
    return choose and choose(call)


def fused_default():
    """Whether a layer with `fused="auto"` may run its fused path."""
    return _fused is not False


def is_compiled(fused):
    """Whether a layer with this `fused` runs compiled loops in any function."""
    return fused == "compiled" or (fused is not False and _fused == "compiled")


_given = os.environ.get("KERAS_GATED_FUSED", "auto")
if _given not in ("", "0", "1", "auto"):
    raise ValueError(
        "The environment variable KERAS_GATED_FUSED must be 0, 1 or auto. Received: "
        f"KERAS_GATED_FUSED={_given!r}. Leave it unset for auto."
    )
set_fused(_given != "0")
