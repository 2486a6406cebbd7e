"""Which classes of `keras.layers` become which of ours, and which subclasses may follow them."""

import functools

import keras

import keras_gated.cells.gru
import keras_gated.cells.lstm
import keras_gated.cells.simple_rnn
import keras_gated.layers.bidirectional
import keras_gated.layers.families
from keras_gated import keras_private

_OURS = {
    "SimpleRNN": keras_gated.layers.families.SimpleRNN,
    "LSTM": keras_gated.layers.families.LSTM,
    "GRU": keras_gated.layers.families.GRU,
    "SimpleRNNCell": keras_gated.cells.simple_rnn.SimpleRNNCell,
    "LSTMCell": keras_gated.cells.lstm.LSTMCell,
    "GRUCell": keras_gated.cells.gru.GRUCell,
    "Bidirectional": keras_gated.layers.bidirectional.Bidirectional,
}
TO_OURS = {getattr(keras.layers, name): ours for name, ours in _OURS.items()}
TO_KERAS = {ours: theirs for theirs, ours in TO_OURS.items()}
# The names that a subclass may define without changing what it does.
_OF_EVERY_CLASS = (*vars(type("Empty", (), {"__slots__": ()})), "__init__", "__annotations__")
_OF_EVERY_CLASS += ("__dict__", "__weakref__", "__firstlineno__", "__static_attributes__")
_OF_EVERY_CLASS += ("get_config", "from_config")


def subclasses(old, classes, owner):
    """Returns the new class for each subclass in a model: that of the class that it extends.

    Raises:
        ValueError: If a subclass changes what that class does, and so cannot be converted exactly.
    """
    found = {}
    for part in keras_private.parts_of(old):
        cls, base = type(part), base_of(type(part))
        if cls is base or base not in classes:
            continue
        changed = _changed(part, base)
        if changed:
            raise ValueError(
                f"{owner}: {part.name!r} is a {cls.__name__}, a subclass of {base.__name__} that "
                f"changes it: {', '.join(changed)}. Its answers would be others. Convert the other "
                f"layers one by one, or use {base.__name__} itself."
            )
        found[cls] = classes[base]
    return found


def base_of(cls):
    """Returns the class of Keras or of ours that `cls` is or extends, or None."""
    return next((c for c in cls.__mro__ if c in TO_OURS or c in TO_KERAS), None)


@functools.cache
def arguments_of(cls):
    inner = keras.layers.LSTM(1) if issubclass(cls, keras.layers.Bidirectional) else 1
    return {*cls(inner).get_config(), "backward_layer"}


def _changed(layer, base):
    """Returns the names of what a layer's class changes in its base class."""
    between = type(layer).__mro__[: type(layer).__mro__.index(base)]
    own = {name for cls in between for name in vars(cls)} - set(_OF_EVERY_CLASS)
    changed = {name for name in own if hasattr(base, name)}
    config, expected = layer.get_config(), base.get_config(layer)
    changed |= {f"{n} in get_config" for n in expected if config.get(n, None) != expected[n]}
    cell = getattr(layer, "cell", None)
    if cell is not None and type(cell) is not type(base.from_config(expected).cell):
        changed.add(f"cell, a {type(cell).__name__}")
    if cell is not None and layer._trainable_variables:
        changed.add("weights of its own")
    return sorted(changed)
