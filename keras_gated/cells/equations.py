"""A cell's equations without its weights: what a traced or compiled function may keep.

TensorFlow keeps a traced function for as long as the process runs. A function that knew a layer
would keep the layer, too, and every layer would be traced again. So loops know equations, and
weights reach them as arguments: all layers with the same equations share one set of functions.
"""

import functools
import types
import weakref

import keras

from keras_gated.cells.base import GatedCell

_METHODS = ("project", "step", "step_gradient")
_OF_CLASS = ("gates", "inputs_and_state_are_summed", "state_names", "step_type")


class Equations:
    """What the loops over time ask of a cell."""

    def __init__(self, cell, methods, projects_as_all, written):
        self.projects_as_all = projects_as_all  # whether `project` is that of `GatedCell`
        self.written = written  # whether `step_gradient` is the derivative of `step`
        self.width = len(cell.gates) * cell.units
        for name in (*_OF_CLASS, "units"):
            setattr(self, name, getattr(cell, name))
        for name, method in methods.items():
            setattr(self, name, method)
        self.functions = {}  # whatever is traced of them, by what it was traced for


def equations_of(cell):
    """Returns the `Equations` of a built cell.

    They are shared by all cells whose class says what its `step` reads (`reads`). A cell that may
    read anything of itself has equations of its own, which end with it.
    """
    stated_by = owner(cell, "step")
    standard = owner(cell, "project") is GatedCell and owner(cell, "step_gradient") is stated_by
    if standard and "reads" in vars(stated_by):
        names = ("units", *stated_by.reads)
        constants = tuple((name, getattr(cell, name)) for name in names)
        return _shared(stated_by, constants, why_not_written(cell) is None)
    if cell not in _OWN:
        itself = weakref.proxy(cell)
        methods = {
            name: types.MethodType(getattr(owner(cell, name), name), itself) for name in _METHODS
        }
        as_all = owner(cell, "project") is GatedCell
        _OWN[cell] = Equations(itself, methods, as_all, why_not_written(cell) is None)
    return _OWN[cell]


_OWN = weakref.WeakKeyDictionary()


@functools.cache
def _shared(cell_class, constants, written):
    itself = types.SimpleNamespace(**dict(constants))
    for name in _OF_CLASS:
        setattr(itself, name, getattr(cell_class, name))
    methods = {name: types.MethodType(getattr(cell_class, name), itself) for name in _METHODS}
    return Equations(itself, methods, True, written)


def owner(cell, method):
    """Returns the class that a method of a cell stands in."""
    return next(c for c in type(cell).__mro__ if method in vars(c))


def why_not_written(cell):
    """Returns why `step_gradient` may not be the derivative of a cell's `step`, or None."""
    for name, default in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        function = getattr(cell, name, None)
        if function is not None and function is not getattr(keras.activations, default):
            return f"its derivative is that of `{name}={default!r}`"
    stated_by = owner(cell, "step")
    if stated_by is GatedCell or owner(cell, "step_gradient") is not stated_by:
        return f"{type(cell).__name__} has a `step` of its own without a `step_gradient`"
    if not getattr(cell, "reset_after", True):
        return "`reset_after=False` has a second recurrent product at every step"
    return None


def why_not_given(cell):
    """Returns which weights a `step` reads without being given them, as a clause, or None.

    The loops give a step its weights and take the derivatives by those. By any other there would
    be none.
    """
    equations = equations_of(cell)
    if cell not in _OWN:
        return None
    if why_not_given not in equations.functions:
        equations.functions[why_not_given] = _read_by_step(cell)
    names = equations.functions[why_not_given]
    return names and (
        f"the `step` of {type(cell).__name__} reads the weights {names} of the cell itself: return "
        "them from `recurrent_weights`, and take them from its argument `weights`"
    )


def _read_by_step(cell):
    import tensorflow as tf  # which asks, and is there then

    dtype = cell.state_dtype
    x = tf.TensorSpec([1, len(cell.gates) * cell.units], dtype)
    states = [tf.TensorSpec([1, cell.units], dtype) for _ in cell.state_names]
    with tf.init_scope():
        weights = [tf.TensorSpec(w.shape, w.dtype) for w in cell.recurrent_weights()]
    function = tf.function(lambda *given: tuple(cell.step(*given)), autograph=False)
    captured = function.get_concrete_function(x, states, weights).captured_inputs
    handles = [t for t in captured if t.dtype == tf.resource]
    return [v.name for v in cell.weights if any(v.value.handle is h for h in handles)]
