"""What the kernels of other libraries share: cuDNN's, and PyTorch's own.

The kernels know an LSTM and a GRU, and read rows from their first step. So the valid steps of every
row are moved to its start, and outputs are moved back to where the steps were.
"""

from keras import ops

from keras_gated.cells.base import GatedCell
from keras_gated.cells.equations import owner
from keras_gated.paths.path import Results, last_output, why_cells_loop


def why_unknown(call, library):
    """Returns why a library's kernel does not compute what a call asks for, or None."""
    cell, training = call.cell, call.training
    name = type(cell).__name__
    if not hasattr(cell, "cudnn_mode"):
        return f"{library} does not know {name}"
    if call.looked_at:
        return f"{library} keeps its gates to itself"
    for rate, does in (
        ("recurrent_weight_dropout", "changes the weights in training"),
        ("recurrent_dropout", "changes the recurrent product in training"),
    ):
        if training and getattr(cell, rate):
            return f"`{rate}` {does}"
    if any(cell.zoneout_rates()):
        return "`zoneout` changes every step"
    family = owner(cell, "cudnn_mode")
    for method in ("step", "project", "input_weights", "recurrent_weights"):
        if owner(cell, method) not in (family, GatedCell):
            return f"{name} has a `{method}` of its own"
    if not cell.step_gradient_holds():
        return (
            "its equations have `activation='tanh'`, `recurrent_activation='sigmoid'`, "
            "`reset_after=True` and no projection"
        )
    return why_cells_loop(call)


def run(call, kernel):
    """Runs a call with a kernel, a function of the call, its sequences and their lengths.

    The kernel returns its outputs, `(batch, time, units)`, and the states after the last step of
    every row, or only the hidden state if no other is wanted. Lengths are int32, `(batch,)`, or
    None: all steps count.
    """
    layer, x, mask = call.layer, call.sequences, call.mask
    backwards, time = layer.go_backwards, ops.shape(x)[1]
    if mask is None:
        lengths, steps = None, ops.flip(x, axis=1) if backwards else x
    else:
        counts = ops.cast(mask, "int32")
        lengths = ops.sum(counts, axis=1)
        # For each step: how many valid steps have been read, with this step.
        read = _summed(counts, backwards)
        turn = ops.broadcast_to(ops.arange(time, dtype="int32"), ops.shape(mask))
        turn = time - 1 - turn if backwards else turn
        order = ops.argsort(ops.where(mask, turn, turn + time), axis=1)
        moved = _steps_at(x, order)
        counted = ops.arange(time, dtype="int32") < lengths[:, None]
        steps = ops.where(counted[..., None], moved, ops.zeros_like(moved))
    outputs, finals = kernel(call, steps, lengths)
    some = ops.full((ops.shape(x)[0], 1), time > 0) if mask is None else lengths[:, None] > 0
    finals = [ops.where(some, f, s) for f, s in zip(finals, call.states, strict=False)]
    if mask is not None:
        outputs = ops.pad(outputs, [[0, 0], [1, 0], [0, 0]])  # before the first step: zeros
        shown = ops.where(mask, read, 0) if layer.zero_output_for_mask else read
        outputs = _steps_at(outputs, shown)
    reversed_ = call.outputs_reversed
    if reversed_ if mask is not None else backwards and not reversed_:
        outputs = ops.flip(outputs, axis=1)
    last = last_output(x, mask, backwards, layer.zero_output_for_mask, finals[0])
    return Results(last, [outputs] * len(call.fields), finals)


def _steps_at(x, places):
    """Returns the steps of each row at the indices `places`, int `(batch, ...)`."""
    batch, time = ops.shape(x)[:2]
    flat = places + time * ops.arange(batch, dtype="int32")[:, None]
    return ops.take(ops.reshape(x, (-1, x.shape[-1])), flat, axis=0)


def _summed(counts, backwards):
    if not backwards:
        return ops.cumsum(counts, axis=1)
    return ops.flip(ops.cumsum(ops.flip(counts, axis=1), axis=1), axis=1)
