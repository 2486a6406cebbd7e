"""Records the inputs and results of recurrent layers, for functions that look inside a model."""

import contextlib
import contextvars
from typing import Any, NamedTuple

import keras

from keras_gated import keras_private
from keras_gated.cells.context import holding

_RECORDING = contextvars.ContextVar("keras_gated_recording", default=None)


class Call(NamedTuple):
    """One call of a recurrent layer."""

    layer: Any
    sequences: Any  # (batch, time, features), in the compute dtype
    states: Any  # the states before the first step, each (batch, units)
    mask: Any  # bool (batch, time), or None
    gates: Any  # gate name to (batch, time, units), in the order of the inputs, if wanted
    results: Any  # the results of the call: the output, and final states if it returns them
    finals: Any  # the states after the last step, each (batch, units)
    initial_state: Any  # the argument of the call, or None: the states came from elsewhere


class Recording(NamedTuple):
    what: str
    calls: list
    states: dict  # the `id` of a layer to its initial states
    weights: dict  # the `id` of a layer to its weights as `plain.one_step` takes them
    graph: Any  # the graph in which it began: values of another graph cannot be read in this one
    maps: int  # how many vectorized maps were around: inside another, values are of one row alone


@contextlib.contextmanager
def recording(what, states=None, weights=None):
    """Yields a list. Every call of our layers inside the `with` block is added to it, in order.

    Looking at a model does not change it: stateful layers keep their states meanwhile.

    Args:
        what: "gates" of every step, or "states" after the last step.
        states: Optional dict: the `id` of a layer to its initial states, used if a call gives none.
        weights: Optional dict: the `id` of a layer to what `plain.weights_of` gives for its cell.
    """
    current = Recording(what, [], states or {}, weights or {}, *_place())
    with holding(_RECORDING, current):
        yield current.calls


def is_recording(what=None):
    current = _RECORDING.get()
    return current is not None and what in (None, current.what)


def states_given(layer):
    """Returns the states that a layer is to begin with while it is recorded, or None."""
    current = _RECORDING.get()
    return current and current.states.get(id(layer))


def weights_given(layer):
    """Returns a layer's weights that were read beforehand, or None."""
    current = _RECORDING.get()
    return current and current.weights.get(id(layer))


def record(layer, *call):
    """Adds a call to the recording.

    Raises:
        ValueError: If its values cannot be read outside of the function that computes them.
    """
    current = _RECORDING.get()
    graph, maps = _place()
    if graph is not current.graph or maps > current.maps:
        raise ValueError(
            f"What {layer.name!r} computes cannot be looked at from outside: it is called inside a "
            "function, a loop or a map of TensorFlow (`tf.function`, `TimeDistributed` over an "
            "unknown number of steps). Look at it in there, or call the layer outside."
        )
    current.calls.append(Call(layer, *call))


def _place():
    """Returns the graph that is being built, or None, and the number of vectorized maps around."""
    if keras.backend.backend() != "tensorflow":
        return None, 0
    import tensorflow as tf  # the other backends have no graphs that are built layer by layer

    if tf.executing_eagerly():
        return None, 0
    return tf.compat.v1.get_default_graph(), keras_private.vectorized_maps_around()
