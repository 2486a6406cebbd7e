"""Checks of constructor arguments and shapes, which cells and layers share."""

import numbers

import keras

KINDS = {
    "activation": keras.activations,
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}


def kind(name):
    """Returns the Keras module that resolves and serializes the argument `name`, or None."""
    return KINDS.get(name.rsplit("_", 1)[-1])


def arguments_of(scope):
    """Returns the arguments of an `__init__`, given its `locals()`, with `**kwargs` merged in.

    The signatures of cells and layers are written out for the reader and the editor; this
    spares repeating thirty names in every body.
    """
    named = {k: v for k, v in scope.items() if k not in ("self", "kwargs", "__class__")}
    return {**named, **scope["kwargs"]}


def compatible(shape, expected):
    """Whether a shape can be the expected one; None fits everything."""
    return len(shape) == len(expected) and all(
        None in (a, b) or a == b for a, b in zip(shape, expected, strict=True)
    )


def positive_integer(owner, name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value <= 0:
        raise ValueError(
            f"{owner}: `{name}` must be a positive integer. Received: {name}={value!r} "
            f"(of type {type(value).__name__}). For example: {owner.removesuffix('Cell')}(64)."
        )
    return int(value)


def boolean(owner, name, value):
    if not isinstance(value, bool):
        raise ValueError(f"{owner}: `{name}` must be True or False. Received: {name}={value!r}.")
    return value


def rate(owner, name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(
            f"{owner}: `{name}` must be a number from 0 to 1, the fraction to drop. "
            f"Received: {name}={value!r}. Use 0 for no dropout."
        )
    return float(value)


def resolve(owner, name, value):
    """Returns the function that an identifier stands for, or raises an error that names it."""
    try:
        return kind(name).get(value)
    except (ValueError, TypeError) as error:
        module = kind(name).__name__.replace("._tf_keras", "").replace(".api", "")
        raise ValueError(
            f"{owner}: `{name}` must be a name, a config or a callable that `{module}.get` "
            f"accepts. Received: {name}={value!r}. A function of your own can be passed as it is."
        ) from error
