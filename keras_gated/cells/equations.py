"""A cell's equations without its weights: what a traced or compiled function may keep.

TensorFlow keeps a traced function for as long as the process runs. A function that refers to a
layer would keep the layer, too, and every layer would be traced again. So the loops refer to
equations only, and get weights as arguments. All layers with the same equations share one set of
functions.
"""

import dataclasses
import functools
import inspect
import weakref

import keras
import numpy as np
from keras import ops

from keras_gated.cells.base import GatedCell, masked_step
from keras_gated.cells.dropout import Masks

_METHODS = ("project", "step", "step_gradient", "state_widths")
_STATED = (*_METHODS, "gates", "state_names", "step_type")


class Equations:
    """The part of a cell that the loops over time use.

    Args:
        cell: The cell, or an object with only the attributes that the equations read.
        projects_as_all: Whether `project` is the method of `GatedCell`.
        written: Whether `step_gradient` is the derivative of `step`.
        zoned: Whether the last columns of the inputs hold the zones of every step (see `Masks`).
        zero_is_safe: Whether it is known that `project` and `step` have a derivative where the
            inputs are zeros.
        shared: Whether other cells use these `Equations`, too.
    """

    def __init__(self, cell, projects_as_all, written, zoned, zero_is_safe, shared):
        self._cell, self.shared = cell, shared
        self.state_names, self.step_type = cell.state_names, cell.step_type
        self.inputs_and_state_are_summed = cell.inputs_and_state_are_summed
        self.units, self.width = cell.units, len(cell.gates) * cell.units
        self.widths = {name: cell.width_of(name) for name in cell.step_type._fields}
        self.state_widths = [self.widths[name] for name in self.state_names]
        self._zones = sum(self.state_widths) if zoned else 0
        self.projects_as_all = projects_as_all and not zoned
        self.zero_is_safe = zero_is_safe
        self.written = written and not any(cell.zoneout_rates())
        self.functions = {}  # a cache of traced functions, rules and plans: see `once`
        # Names of the cell's attributes that a step sets: `check_step` finds them.
        self.notes = frozenset()

    def once(self, key, make):
        """Returns `make()`, or what it returned for this key before."""
        if key not in self.functions:
            self.functions[key] = make()
        return self.functions[key]

    def project(self, x, weights):
        x, zones = self._apart(x)
        x = self._cell.project(x, weights)
        return x if zones is None else ops.concatenate([x, zones], axis=-1)

    def step(self, x, states, weights, keep=None):
        """Returns a step as the cell's `step` does, with dropout and zoneout applied."""
        x, zones = self._apart(x)
        return masked_step(self._cell, x, states, weights, Masks(hidden=keep, zones=zones))

    def step_gradient(self, *given):
        return self._cell.step_gradient(*given)

    def _apart(self, x):
        if not self._zones:
            return x, None
        return x[..., : -self._zones], ops.stop_gradient(x[..., -self._zones :])


def equations_of(cell, zoned=False):
    """Returns the `Equations` of a built cell.

    If a class lists what its equations read (`reads`), its cells share one `Equations` where these
    values are equal. (If a value is a function of the caller, or an object that may be deleted,
    nothing is shared: the function may read what changes until the next layer is made.) Any other
    cell may read anything of itself. It has `Equations` for itself alone. They are deleted together
    with the cell, or when one of its attributes gets another value.
    """
    order = type(cell).__mro__
    owners = {owner(cell, name) for name in _METHODS} - {GatedCell}
    standard = owner(cell, "project") is GatedCell
    by = owner(cell, "step")
    written = owner(cell, "step_gradient") is by is not GatedCell and cell.step_gradient_holds()
    safe = False
    if all("reads" in vars(one) for one in owners):
        stated_by = min((owner(cell, name) for name in _STATED), key=order.index)
        reads = [name for part in order for name in vars(part).get("reads", ())]
        names = dict.fromkeys(["units", *reads])
        constants = tuple((name, getattr(cell, name)) for name in names)
        safe = all(map(_of_keras_or_ours, (*owners, *(value for _, value in constants))))
        if all(_stays(value) for _, value in constants):
            options = (standard, written, zoned, safe)
            return _shared(stated_by, constants, tuple(cell.zoneout_rates()), *options)
    before, own = _OWN.get(cell, (None, {}))
    written = {name for equations in own.values() for name in equations.notes}
    attributes = _copied({n: v for n, v in vars(cell).items() if n not in _OF_KERAS | written})
    if attributes != before:
        own = {}
        _OWN[cell] = attributes, own
    if zoned not in own:
        own[zoned] = Equations(weakref.proxy(cell), standard, written, zoned, safe, shared=False)
    return own[zoned]


_OWN = weakref.WeakKeyDictionary()  # cell: its attributes, and its `Equations` with these
_OF_KERAS = frozenset(vars(keras.layers.Layer(dtype="float32", name="any")))  # Keras changes them


def _copied(value):
    """Returns a value to compare with later: objects are equal only to themselves.

    It refers weakly to objects. They may refer to the cell, which must not be kept.
    """
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return type(value), value
    if isinstance(value, np.ndarray):  # it may be changed in place
        return value.dtype, value.shape, value.tobytes()
    try:
        # Two references compare the objects, and tensors their numbers. It does not come to that:
        # other objects differ in the `id`, and the same object has the same reference.
        return id(value), weakref.ref(value)
    except TypeError:
        return id(value)


def _of_keras_or_ours(value):
    """Whether a value is a number, an activation of Keras, or code of this package."""
    name = getattr(value, "__name__", "")
    of_keras = name and getattr(keras.activations, name, None) is value
    ours = str(getattr(value, "__module__", None)).startswith("keras_gated.")
    return not callable(value) or of_keras or ours


def _stays(value):
    """Whether a value may be kept when the cell is deleted, and stands for the same computation.

    That is a number, a string, a function of a library, or a frozen data class of such values.
    """
    if inspect.isfunction(value):  # "<": of a lambda, or of a function within another
        library = str(value.__module__).partition(".")[0] in _LIBRARIES
        return library and "<" not in value.__qualname__
    if dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen:
        return all(_stays(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        return all(map(_stays, value))
    return value is None or isinstance(value, (bool, int, float, complex, str))


_LIBRARIES = ("keras", "keras_gated", "tensorflow", "jax", "torch")


# What is compiled for a size takes 20 MiB, and a search tries many sizes.
@functools.lru_cache(maxsize=64)
def _shared(cell_class, constants, zoneout, *options):
    itself = object.__new__(cell_class)  # not built as a layer: no weights, only these attributes
    vars(itself).update(constants, zoneout=list(zoneout))
    return Equations(itself, *options, shared=True)


def owner(cell, name):
    """Returns the class that defines a method or attribute of a cell."""
    return next(c for c in type(cell).__mro__ if name in vars(c))
