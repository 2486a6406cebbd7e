"""A sequence through a layer's cell, step by step in Keras's own loop, on all its backends."""

import keras
from keras import ops


def run(layer, sequences, states, mask, training, fields, outputs_reversed):
    """Runs a layer's cell over sequences, whatever its options.

    Keras's loop wants a step, and computes masked steps, too.

    Args:
        layer: A built layer.
        sequences: `(batch, time, features)`.
        states: The states before the first step, each `(batch, units)`.
        mask: Optional bool, `(batch, time)`.
        training: Whether dropout is applied.
        fields: Names of the gates and states wanted of every step.
        outputs_reversed: Whether they are wanted with the last step of the inputs first.

    Returns:
        The last output, `(batch, units)`; the fields, each `(batch, time, units)`; and the final
        states.
    """
    batch, time, features = (*ops.shape(sequences)[:2], sequences.shape[-1])
    if mask is not None:  # what a masked step holds must not reach a gradient: 0 * inf is NaN
        sequences = ops.where(mask[..., None], sequences, ops.zeros_like(sequences))
    if sequences.shape[1]:
        outputs, new = _keras_loop(layer, sequences, states, mask, training, fields)
    else:
        one_if_empty = 1 if sequences.shape[1] == 0 else ops.maximum(1 - time, 0)
        added = ops.zeros((batch, one_if_empty, features), sequences.dtype)
        longer, of_longer = ops.concatenate([sequences, added], axis=1), mask
        if mask is not None:
            added = ops.zeros((batch, one_if_empty), "bool")
            of_longer = ops.concatenate([mask, added], axis=1)
        outputs, new = _keras_loop(layer, longer, states, of_longer, training, fields)
        outputs = [output[:, :time] for output in outputs]
        new = [ops.where(time > 0, a, b) for a, b in zip(new, states, strict=True)]
    if mask is None:
        some = ops.full((batch,), True) if sequences.shape[1] else ops.full((batch,), time > 0)
    else:
        # Keras's backends differ in what they put out at a masked step with none before it.
        shown = ops.flip(mask, axis=1) if layer.go_backwards else mask
        if not layer.zero_output_for_mask:
            shown = ops.cumsum(ops.cast(shown, "int32"), axis=1) > 0
        some = ops.any(shown[:, -1:], axis=1)
        outputs = [ops.where(shown[..., None], o, ops.zeros_like(o)) for o in outputs]
    if layer.go_backwards and not outputs_reversed:
        outputs = [ops.flip(output, axis=1) for output in outputs]
    return ops.where(some[:, None], new[0], ops.zeros_like(new[0])), outputs, new


def _keras_loop(layer, sequences, states, mask, training, fields):
    """Returns the fields of all steps, and the final states."""
    if not fields or (fields == ("hidden",) and layer.return_sequences):
        _, outputs, new = _loop(layer, sequences, states, mask, training)
        return [outputs] * len(fields), new
    whole = keras.layers.RNN(
        _WholeStep(layer.cell, fields, training),
        return_sequences=True,
        go_backwards=layer.go_backwards,
        unroll=layer.unroll,
        stateful=layer.stateful,
        name="whole_step",  # so that no layer of a user gets another number
    )
    none_before = ops.zeros((ops.shape(sequences)[0], whole.cell.output_size), states[0].dtype)
    _, outputs, [_, *new] = _loop(whole, sequences, [none_before, *states], mask)
    return ops.split(outputs, len(fields), axis=-1), new


_loop = keras.layers.RNN.inner_loop


class _WholeStep:
    """A cell that puts out gates and states of a step, side by side.

    Its first state is the output before: Keras takes it from there on some backends.
    """

    def __init__(self, cell, fields, training):
        self.cell, self.fields, self.training = cell, fields, training
        self.output_size = len(fields) * cell.units
        self.state_size = [self.output_size] + [cell.units] * len(cell.state_names)

    def call(self, inputs, states):
        step = self.cell.whole_step(inputs, states[1:], self.training)
        output = ops.concatenate([getattr(step, name) for name in self.fields], axis=-1)
        return output, [output, *(getattr(step, name) for name in self.cell.state_names)]

    __call__ = call
