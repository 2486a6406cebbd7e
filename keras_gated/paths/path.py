"""A path is one way to run a sequence through a cell. A layer tries paths in a fixed order."""

import contextvars
from typing import Any, NamedTuple, Protocol

from keras import ops

from keras_gated.cells.base import GatedCell
from keras_gated.cells.context import holding
from keras_gated.cells.dropout import Masks
from keras_gated.cells.equations import owner
from keras_gated.paths.recorder import is_recording


class Call(NamedTuple):
    """What a layer asks a path to run."""

    layer: Any  # the built layer
    sequences: Any  # (batch, time, features), after dropout of the inputs
    states: Any  # the states before the first step, each (batch, width)
    mask: Any  # bool (batch, time), or None
    training: bool
    masks: Masks  # dropout and zoneout of the steps
    fields: tuple[str, ...]  # names of the gates and states wanted of every step
    outputs_reversed: bool  # whether `fields` are wanted with the last step of the inputs first
    weights: Any  # the cell's weights as `plain.weights_of` returns them; None: the path reads them
    compiled: bool = False  # whether compiled loops may run in any `tf.function`

    @property
    def cell(self):
        return self.layer.cell

    @property
    def looked_at(self):
        """Whether gates or states besides the output are wanted of every step."""
        return not set(self.fields) <= {"hidden"}

    @property
    def states_wanted(self):
        """Whether anybody asks for the states after the last step."""
        return self.layer.return_state or self.layer.stateful or is_recording()


class Results(NamedTuple):
    """What a path returns."""

    output: Any  # the last output, (batch, width)
    steps: Any  # the fields, each (batch, time, width)
    finals: Any  # the states after the last step, each (batch, width); all if `states_wanted`


class Path(Protocol):
    """A module of this package that runs calls.

    The cell's loop, `keras_loop`, can run every call, so it has no `why_not`.
    """

    def why_not(self, call: Call) -> str | None:
        """Returns why the path cannot run a call, as a clause, or None where it can."""

    def run(self, call: Call) -> Results:
        """Runs a call for which `why_not` returns None."""


_EXPORTING = contextvars.ContextVar("keras_gated_exporting", default=False)


def exporting():
    """Keeps operations that need a GPU or XLA out of the graphs that are traced inside."""
    return holding(_EXPORTING, True)


def is_exporting():
    return _EXPORTING.get()


def last_output(x, mask, go_backwards, zero_masked_outputs, hidden):
    """Returns the last output: zeros without a valid step, or if a masked last step is to be zero.

    Args:
        x: The sequences.
        mask, go_backwards, zero_masked_outputs: Of the call and its layer.
        hidden: The hidden state after the last step that counts, `(batch, width)`.
    """
    if mask is None:
        if x.shape[1]:
            return hidden
        some = ops.full((ops.shape(x)[0], 1), ops.shape(x)[1] > 0)
    else:
        last = mask[:, :1] if go_backwards else mask[:, -1:]
        some = ops.any(last if zero_masked_outputs else mask, axis=1, keepdims=True)
    return ops.where(some, hidden, ops.zeros_like(hidden))


def filled(x, counts):
    """Replaces the steps that do not count by a step that counts, or by ones if no step does.

    So `project` and `step` compute only with inputs that the caller gives. At zeros, the equations
    of a user's own may have no derivative, and 0 * inf is NaN.

    Args:
        x: Steps, `(..., features)`.
        counts: bool, `(...)`.
    """
    steps = ops.reshape(x, (-1, x.shape[-1]))
    steps = ops.concatenate([steps, ops.ones((1, x.shape[-1]), x.dtype)], axis=0)
    counted = ops.concatenate([ops.reshape(counts, (-1,)), ops.ones((1,), "bool")], axis=0)
    first = ops.argmax(ops.cast(counted, "int32"), axis=0)
    return ops.where(counts[..., None], x, ops.stop_gradient(ops.take(steps, first, axis=0)))


def why_cells_loop(call):
    """Returns why a call asks for the cell's own loop, as a clause, or None."""
    if call.layer.unroll:
        return "`unroll=True` asks for the cell's own loop"
    method, name = own_call(call.cell), type(call.cell).__name__
    return method and f"{name} has a `{method}` of its own, which only that loop calls"


def steps_are_known(cell):
    """Whether the gates and states of every step are known: not where a `call` makes them."""
    return own_call(cell) != "call"


def own_call(cell):
    """Returns the name of the method that a cell runs in place of `step`, or None."""
    names = ("call", "whole_step")
    return next((name for name in names if owner(cell, name) is not GatedCell), None)
