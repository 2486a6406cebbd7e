"""What recurrent layers were given and computed, kept while somebody looks inside."""

import contextlib
import contextvars
from typing import Any, NamedTuple

import keras

_RECORDING = contextvars.ContextVar("keras_gated_recording", default=None)


class Call(NamedTuple):
    """One call of a recurrent layer."""

    layer: Any
    sequences: Any  # (batch, time, features), in the compute dtype
    states: Any  # the states before the first step, each (batch, units)
    mask: Any  # bool (batch, time), or None
    gates: Any  # every gate and state of every step, in the order of the inputs
    results: Any  # what the call returned: the output, final states where they are returned


class Recording(NamedTuple):
    calls: list
    graph: Any  # where it was begun: what a layer computes in another one stays there


@contextlib.contextmanager
def recording():
    """Yields a list to which every call of our layers inside is added, in order.

    A stateful layer's state stays as it is meanwhile: looking at a model does not change it.
    """
    current = Recording([], _graph())
    token = _RECORDING.set(current)
    try:
        yield current.calls
    finally:
        _RECORDING.reset(token)


def is_recording():
    return _RECORDING.get() is not None


def record(layer, *call):
    """Adds a call to the recording.

    Raises:
        ValueError: If its values cannot be had outside of the function that computes them.
    """
    calls, graph = _RECORDING.get()
    if _graph() is not graph:
        raise ValueError(
            f"The gates of {layer.name!r} cannot be looked at from outside: it is called inside a "
            "function, a loop or a map of TensorFlow (`tf.function`, `TimeDistributed`). Call "
            "`trace_gates` in there, or the layer outside."
        )
    calls.append(Call(layer, *call))


def _graph():
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf  # the other backends have no graphs that are built layer by layer

    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
