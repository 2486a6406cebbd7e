"""Runs a sequence through a layer's cell in Keras's loop, step by step, on all its backends."""

import keras
from keras import ops

from keras_gated.cells.equations import equations_of
from keras_gated.cells.gates import apart
from keras_gated.keras_private import inner_loop, training_in_calls
from keras_gated.paths.path import Results, filled, last_output, own_call, steps_are_known


def run(call, unroll=None):
    """As in `Path`. Keras's loop needs at least one step, and computes masked steps, too.

    Args:
        call: The `Call`.
        unroll: Whether to unroll the loop. Default: as the layer says.
    """
    unroll = call.layer.unroll if unroll is None else unroll
    layer, sequences, states, mask = call.layer, call.sequences, call.states, call.mask
    if call.masks.zones is not None:  # zones go beside the inputs of their steps
        zones = ops.cast(call.masks.zones, sequences.dtype)
        sequences = ops.concatenate([sequences, zones], axis=-1)
    batch, time, features = (*ops.shape(sequences)[:2], sequences.shape[-1])
    if mask is not None:  # values of masked steps must not reach a gradient: 0 * inf is NaN
        if own_call(call.cell) or not equations_of(call.cell).zero_is_safe:
            sequences = filled(sequences, mask)
        else:
            sequences = ops.where(mask[..., None], sequences, ops.zeros_like(sequences))
    if sequences.shape[1]:
        last, outputs, new = _keras_loop(call, sequences, mask, unroll)
    else:
        one_if_empty = 1 if sequences.shape[1] == 0 else ops.maximum(1 - time, 0)
        added = ops.zeros((batch, one_if_empty, features), sequences.dtype)
        longer, of_longer = ops.concatenate([sequences, added], axis=1), mask
        if mask is not None:
            added = ops.zeros((batch, one_if_empty), "bool")
            of_longer = ops.concatenate([mask, added], axis=1)
        last, outputs, new = _keras_loop(call, longer, of_longer, unroll)
        outputs = [output[:, :time] for output in outputs]
        new = [ops.where(time > 0, a, b) for a, b in zip(new, states, strict=True)]
    if mask is not None:
        # Keras's backends differ in the output of a masked step without a valid step before it.
        shown = ops.flip(mask, axis=1) if layer.go_backwards else mask
        if not layer.zero_output_for_mask:
            shown = ops.cumsum(ops.cast(shown, "int32"), axis=1) > 0
        outputs = [ops.where(shown[..., None], o, ops.zeros_like(o)) for o in outputs]
    if layer.go_backwards and not call.outputs_reversed:
        outputs = [ops.flip(output, axis=1) for output in outputs]
    last = last_output(sequences, mask, layer.go_backwards, layer.zero_output_for_mask, last)
    return Results(last, outputs, new)


def _keras_loop(call, sequences, mask, unroll):
    """Returns the last output, the fields of all steps, and the final states."""
    with training_in_calls(call.training):  # for layers in the step, and masks
        if call.training and own_call(call.cell):  # this cell draws its masks before the loop
            call.cell.get_dropout_mask(sequences[:, 0])
            call.cell.get_recurrent_dropout_mask(call.states[0])
        results = _looped(call, sequences, mask, unroll)
    call.cell.reset_dropout_mask()
    call.cell.reset_recurrent_dropout_mask()
    return results


def _looped(call, sequences, mask, unroll):
    layer, states, fields = call.layer, call.states, call.fields
    if not steps_are_known(call.cell):
        if unroll != layer.unroll:
            arguments = ("return_sequences", "go_backwards", "zero_output_for_mask")
            arguments = {name: getattr(layer, name) for name in arguments}
            layer = keras.layers.RNN(call.cell, unroll=unroll, name="whole_step", **arguments)
        last, outputs, new = inner_loop(layer, sequences, states, mask, call.training)
        return last, [outputs] * len(fields), new
    one = _WholeStep(call)
    whole = keras.layers.RNN(
        one,
        return_sequences=bool(fields),
        go_backwards=layer.go_backwards,
        unroll=unroll,
        stateful=layer.stateful,
        name="whole_step",  # or the numbers in the names of a user's layers would change
    )
    none_before = ops.zeros((ops.shape(sequences)[0], one.output_size), states[0].dtype)
    _, outputs, [_, *new] = inner_loop(whole, sequences, [none_before, *states], mask)
    return new[0], apart(outputs, one.widths) if fields else [], new


class _WholeStep:
    """A cell whose output is the gates and states of a step, side by side.

    Its first state is the previous output: on some backends, Keras reads the output there.
    """

    def __init__(self, call):
        self.cell = cell = call.cell
        self.fields, self.training = call.fields or ("hidden",), call.training
        self.masks = None if own_call(cell) else call.masks
        self.features = call.sequences.shape[-1]
        self.widths = [cell.width_of(name) for name in self.fields]
        self.output_size = sum(self.widths)
        self.state_size = [self.output_size, *cell.state_widths()]

    def call(self, inputs, states):
        x, zones = inputs[:, : self.features], inputs[:, self.features :]
        masks = self.masks
        if masks and masks.zones is not None:
            masks = masks._replace(zones=ops.cast(zones, self.cell.state_dtype))
        given = () if masks is None else (masks,)  # a user's `whole_step` may take none
        step = self.cell.whole_step(x, states[1:], self.training, *given)
        output = ops.concatenate([getattr(step, name) for name in self.fields], axis=-1)
        new = [getattr(step, name) for name in self.cell.state_names]
        # As in `GatedCell.call`: some functions of Keras turn float64 into float32 on JAX.
        new = [ops.cast(n, old.dtype) for n, old in zip([output, *new], states, strict=True)]
        return new[0], new

    __call__ = call
