"""A cell's equations without its weights: what a traced or compiled function may keep.

TensorFlow keeps a traced function for as long as the process runs. A function that knew a layer
would keep the layer, too, and every layer would be traced again. So loops know equations, and
weights reach them as arguments: all layers with the same equations share one set of functions.
"""

import functools
import weakref

from keras import ops

from keras_gated.cells.base import GatedCell, masked_step
from keras_gated.cells.dropout import Masks

_METHODS = ("project", "step", "step_gradient", "state_widths")
_STATED = (*_METHODS, "gates", "state_names", "step_type")


class Equations:
    """What the loops over time ask of a cell.

    Args:
        cell: The cell, or what holds no more of it than its equations read.
        projects_as_all: Whether `project` is that of `GatedCell`.
        written: Whether `step_gradient` is the derivative of `step`.
        zoned: Whether the zones of every step stand beside its inputs, in the last columns.
        shared: Whether other cells have them, too.
    """

    def __init__(self, cell, projects_as_all, written, zoned, shared):
        self._cell, self.shared = cell, shared
        self.state_names, self.step_type = cell.state_names, cell.step_type
        self.inputs_and_state_are_summed = cell.inputs_and_state_are_summed
        self.units, self.width = cell.units, len(cell.gates) * cell.units
        self.widths = {name: cell.width_of(name) for name in cell.step_type._fields}
        self.state_widths = [self.widths[name] for name in self.state_names]
        self._zones = sum(self.state_widths) if zoned else 0
        self.projects_as_all = projects_as_all and not zoned
        self.written = written and not any(cell.zoneout_rates())
        self.functions = {}  # whatever is traced of them, by what it was traced for

    def project(self, x, weights):
        x, zones = self._apart(x)
        x = self._cell.project(x, weights)
        return x if zones is None else ops.concatenate([x, zones], axis=-1)

    def step(self, x, states, weights, keep=None):
        """Returns a step as the cell's `step`, with what is dropped in it."""
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

    They are shared by all cells whose class says what its equations read (`reads`). A cell that
    may read anything of itself has equations of its own, which end with it.
    """
    order = type(cell).__mro__
    owners = {owner(cell, name) for name in _METHODS} - {GatedCell}
    standard = owner(cell, "project") is GatedCell
    by = owner(cell, "step")
    written = owner(cell, "step_gradient") is by is not GatedCell and cell.step_gradient_holds()
    if all("reads" in vars(one) for one in owners):
        stated_by = min((owner(cell, name) for name in _STATED), key=order.index)
        reads = [name for part in order for name in vars(part).get("reads", ())]
        names = dict.fromkeys(["units", *reads])
        constants = tuple((name, getattr(cell, name)) for name in names)
        return _shared(stated_by, constants, tuple(cell.zoneout_rates()), standard, written, zoned)
    own = _OWN.setdefault(cell, {})
    if zoned not in own:
        own[zoned] = Equations(weakref.proxy(cell), standard, written, zoned, shared=False)
    return own[zoned]


_OWN = weakref.WeakKeyDictionary()


@functools.cache
def _shared(cell_class, constants, zoneout, *options):
    itself = object.__new__(cell_class)  # no layer: it has no weights, and nothing but these
    vars(itself).update(constants, zoneout=list(zoneout))
    return Equations(itself, *options, shared=True)


def owner(cell, name):
    """Returns the class that a method or attribute of a cell's class stands in."""
    return next(c for c in type(cell).__mro__ if name in vars(c))
