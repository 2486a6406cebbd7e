"""A cell's equations without its weights: what a traced or compiled function may keep.

TensorFlow keeps a traced function for as long as the process runs. A function that refers to a
layer would keep the layer, too, and every layer would be traced again. So the loops refer to
equations only, and get weights as arguments. All layers with the same equations share one set of
functions.
"""

import contextlib
import dataclasses
import functools
import inspect
import itertools
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
        self.functions = {}  # a cache of traced functions, rules and plans
        # Names of the cell's attributes that a step sets: `check_step` finds them.
        self.notes = frozenset()

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
    values are equal. (If a value is an object that may be deleted, a lambda for example, nothing is
    shared, nor for a function that reads what may change.) Any other cell may read anything of
    itself. It has `Equations` for itself alone. They are deleted together with the cell, or when an
    attribute of it or of its class gets another value.
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
            functions = [getattr(type(cell), name) for name in _METHODS]
            functions += [value for _, value in constants]
            functions = filter(inspect.isfunction, functions)
            read = tuple(_read_by(one) for one in functions if not _of_keras_or_ours(one))
            return _shared(stated_by, constants, tuple(cell.zoneout_rates()), read, *options)
    before, own = _OWN.get(cell, (None, {}))
    notes = {name for equations in own.values() for name in equations.notes}
    stated = [vars(part) for part in reversed(order[: order.index(GatedCell)])]
    stated = [part for part in stated if "reads" not in part]
    attributes = {name: value for part in (*stated, vars(cell)) for name, value in part.items()}
    attributes = _copied({n: v for n, v in attributes.items() if n not in _OF_KERAS | notes})
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

    Beside an object stand the plain values that it holds, and beside a function those that it
    reads. It refers weakly to objects. They may refer to the cell, which must not be kept.
    """
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(one) for one in value]
    if _plain(value):
        return type(value), value
    if isinstance(value, np.ndarray):  # it may be changed in place
        return value.dtype, value.shape, value.tobytes()
    if inspect.isfunction(value):
        held = _read_by(value)
    else:  # or the object of a bound method
        held = _plain_of(getattr(getattr(value, "__self__", value), "__dict__", {}))
    try:
        return _Same(weakref.ref(value)), held
    except TypeError:
        return id(value), held


def _plain(value):
    return value is None or isinstance(value, (bool, int, float, complex, str))


def _plain_of(held):
    held = held.items()
    return tuple((n, type(v), v) for n, v in held if _plain(v) and n not in _OF_KERAS)


def _read_by(function):
    """Returns the code of a function and the plain values that it reads, and of those it calls."""
    return tuple((one.__code__, _plain_of(_outside(one))) for one in _of_its_module(function))


def _of_its_module(function):
    """Returns a function and those of its module that it calls by name."""
    functions = [function]
    for one in functions:
        called = filter(inspect.isfunction, _outside(one).values())
        own = (other for other in called if other.__globals__ is function.__globals__)
        functions += [other for other in dict.fromkeys(own) if other not in functions]
    return functions


def _outside(function):
    """Returns what a function reads by name from outside: globals, and names of outer functions."""
    found, codes = {}, [function.__code__]
    for code in codes:
        codes += [part for part in code.co_consts if inspect.iscode(part)]
        names = function.__globals__
        found.update({name: names[name] for name in code.co_names if name in names})
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it has no value yet
            found[name] = cell.cell_contents
    return found


class _Same:
    """An object, equal only to itself: tensors compare their numbers."""

    def __init__(self, reference):
        self.reference = reference

    def __eq__(self, other):
        one = self.reference()
        return isinstance(other, _Same) and one is not None and one is other.reference()

    __hash__ = None


def _of_keras_or_ours(value):
    """Whether a value is a number, an activation of Keras, or code of this package."""
    name = getattr(value, "__name__", "")
    of_keras = name and getattr(keras.activations, name, None) is value
    ours = str(getattr(value, "__module__", None)).startswith("keras_gated.")
    return not callable(value) or of_keras or ours


def _stays(value):
    """Whether a value may be kept for as long as the process runs.

    That is a number, a string, a function of a module that reads nothing but code, or a frozen data
    class of such values.
    """
    if inspect.isfunction(value):
        if "<" in value.__qualname__:  # a lambda, or a function within another
            return False
        if _of_keras_or_ours(value):
            return True
        read = [_outside(one).values() for one in _of_its_module(value)]
        return all(map(_is_code, itertools.chain(*read)))
    if dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen:
        return all(_stays(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        return all(map(_stays, value))
    return _plain(value)


def _is_code(value):
    kinds = (inspect.isfunction, inspect.ismodule, inspect.isclass, inspect.isbuiltin)
    return any(is_one(value) for is_one in kinds)


@functools.lru_cache(maxsize=64)  # what is compiled for a size takes 20 MiB: a search tries many
def _shared(cell_class, constants, zoneout, read, *options):
    itself = object.__new__(cell_class)  # not built as a layer: no weights, only these attributes
    vars(itself).update(constants, zoneout=list(zoneout))
    return Equations(itself, *options, shared=True)


def owner(cell, name):
    """Returns the class that defines a method or attribute of a cell."""
    return next(c for c in type(cell).__mro__ if name in vars(c))
