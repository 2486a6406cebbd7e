"""Checks of what a cell class states, and of what its `step` returns."""

import numbers

from keras_gated.cells.arguments import rate


def check_class(cls, owner):
    """Raises an error unless a class names its gates and states."""
    if not cls.gates or isinstance(cls.gates, str):
        raise ValueError(
            f"{owner}: a cell names its gates, in the order of the kernel's columns. Received: "
            f"{cls.__name__}.gates = {cls.gates!r}. For example: gates = ('update', 'candidate')."
        )
    if isinstance(cls.state_names, str) or list(cls.state_names[:1]) != ["hidden"]:
        raise ValueError(
            f"{owner}: the first state is the output and is called 'hidden'. Received: "
            f"{cls.__name__}.state_names = {cls.state_names!r}. For example: "
            "state_names = ('hidden', 'memory')."
        )


def check_built(cell, weights):
    """Raises an error unless every state has a width, and no weight a name that has a meaning."""
    widths, names = cell.state_widths(), list(cell.state_names)
    if len(widths) != len(names):
        raise ValueError(
            f"{cell.owner}: `state_widths` must return a width for each of the states {names}. "
            f"Received: {widths}. `state_names` names the states."
        )
    arguments, cls = cell.argument_names(), type(cell)
    taken = [n for n in weights if n in arguments or getattr(cls, n, None) is not None]
    if taken:
        raise ValueError(
            f"{cell.owner}: `weight_shapes` must not give weights the names of arguments or "
            f"methods of the cell, which they would replace. Received: {taken}. Give the weights "
            "other names."
        )


def rates_of_states(owner, zoneout, names):
    """Returns the zoneout rate: a number, or a list with a number for each state."""
    if not isinstance(zoneout, (list, tuple)):
        return rate(owner, "zoneout", zoneout)
    if len(zoneout) != len(names):
        raise ValueError(
            f"{owner}: `zoneout` must be a number, or one for each of the {len(names)} state(s) "
            f"{names}. Received: zoneout={zoneout!r}."
        )
    return [rate(owner, "zoneout", value) for value in zoneout]


def number_of_features(owner, input_shape):
    features = input_shape[-1]
    if not isinstance(features, numbers.Integral):
        raise ValueError(
            f"{owner} needs to know the number of features (the last axis of "
            f"its input) when it is built. Received: input_shape={tuple(input_shape)}. "
            "Give the last axis of `keras.Input(shape=(None, features))` a number."
        )
    return features


def by_name(cell, step):
    """Returns the result of a `step` as the cell's `step_type`.

    Raises:
        ValueError: If the result does not have exactly the fields of the `step_type`, by name.
    """
    kind = cell.step_type
    given = step._asdict() if hasattr(step, "_asdict") else step
    if not isinstance(given, dict) or set(given) != set(kind._fields):
        received = sorted(given) if isinstance(given, dict) else type(step).__name__
        raise ValueError(
            f"{_class_of(cell)}: `step` must return every gate and state by name, a dict of "
            f"{list(kind._fields)}. Received: {received}. The names are those of the class "
            "attributes `gates` and `state_names`; a `step_type` adds fields."
        )
    for name, value in given.items():
        if not hasattr(value, "shape"):
            raise ValueError(
                f"{_class_of(cell)}: `step` must return {name!r} as a tensor. Received: {value!r}."
            )
    return step if isinstance(step, kind) else kind(**given)


def _class_of(cell):
    return getattr(cell, "owner", None) or type(cell).__name__
