"""Which classes of `keras.layers` become which of ours, and which subclasses may follow them."""

import functools

import keras

import keras_gated.cells.gru
import keras_gated.cells.lstm
import keras_gated.cells.simple_rnn
import keras_gated.layers.bidirectional
import keras_gated.layers.families
from keras_gated import keras_private

OURS = {
    "SimpleRNN": keras_gated.layers.families.SimpleRNN,
    "LSTM": keras_gated.layers.families.LSTM,
    "GRU": keras_gated.layers.families.GRU,
    "SimpleRNNCell": keras_gated.cells.simple_rnn.SimpleRNNCell,
    "LSTMCell": keras_gated.cells.lstm.LSTMCell,
    "GRUCell": keras_gated.cells.gru.GRUCell,
    "Bidirectional": keras_gated.layers.bidirectional.Bidirectional,
}
TO_OURS = {getattr(keras.layers, name): ours for name, ours in OURS.items()}
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


def check_own_code(old, new, owner):
    """Raises if a copy lost what the class of a model, or of a model in it, changes.

    Keras copies a sequential model as a `Sequential`. It copies a functional model as one of its
    class only if that is made of inputs and outputs.
    """
    for before, after in zip(keras_private.parts_of(old), keras_private.parts_of(new), strict=True):
        if not isinstance(before, keras.Model) or type(before) is type(after):
            continue
        if changed := _overridden(type(before), type(after)):
            raise ValueError(
                f"{owner}: {before.name!r} is a {type(before).__name__}, a "
                f"{type(after).__name__} that has {', '.join(changed)} of its own. That code would "
                f"be lost. Make a functional model of its layers, and convert that."
            )


def check_own_call(model, owner):
    """Raises if the code of a model, or of a model in it, decides what its layers compute."""
    for part in keras_private.parts_of(model) if isinstance(model, keras.Model) else ():
        bases = (keras.Sequential, keras_private.Functional)
        base = next((base for base in bases if isinstance(part, base)), None)
        if base and "call" in _overridden(type(part), base):
            raise ValueError(
                f"{owner}: {part.name!r} is a {type(part).__name__}, a {base.__name__} that has a "
                "`call` of its own, and only layers are written. Put what it computes into layers."
            )


def _overridden(cls, base):
    """Returns the names that the classes between a class and its base define anew."""
    between = cls.__mro__[: cls.__mro__.index(base)]
    own = {name for cls in between for name in vars(cls)} - set(_OF_EVERY_CLASS)
    return sorted(name for name in own if hasattr(base, name))


def base_of(cls):
    """Returns the class of Keras or of ours that `cls` is or extends, or None."""
    return next((c for c in cls.__mro__ if c in TO_OURS or c in TO_KERAS), None)


@functools.cache
def arguments_of(cls):
    inner = keras.layers.LSTM(1) if issubclass(cls, keras.layers.Bidirectional) else 1
    return {*cls(inner).get_config(), "backward_layer"}


def _changed(layer, base):
    """Returns the names of what a layer's class changes in its base class."""
    changed = set(_overridden(type(layer), base))
    config, expected = layer.get_config(), base.get_config(layer)
    changed |= {f"{n} in get_config" for n in expected if config.get(n, None) != expected[n]}
    cell = getattr(layer, "cell", None)
    if cell is not None and type(cell) is not type(base.from_config(expected).cell):
        changed.add(f"cell, a {type(cell).__name__}")
    if cell is not None and layer._trainable_variables:
        changed.add("weights of its own")
    return sorted(changed)
