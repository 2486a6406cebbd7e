"""PyTorch's own LSTM and GRU, if Keras runs on PyTorch: one call for a whole sequence."""

import torch
from keras import ops

from keras_gated.cells.gates import to_library
from keras_gated.paths import kernels


def why_not(call):
    """As in `Path`."""
    return kernels.why_unknown(call, "PyTorch's kernel")


def run(call):
    """As in `Path`."""
    return kernels.run(call, _run)


def _run(call, steps, lengths):
    cell, states = call.cell, call.states
    batch, time, _ = steps.shape
    if not batch or not time:
        return steps.new_zeros((batch, time, cell.units), dtype=states[0].dtype), states
    # Copies: a stateful layer's variables are overwritten before the derivative is taken.
    steps, states = steps.to(states[0].dtype), [s[None].clone() for s in states]
    kernel = {"lstm": torch.lstm, "gru": torch.gru}[cell.cudnn_mode]
    weights, training = _weights(cell), torch.is_grad_enabled()
    options = cell.use_bias, 1, 0.0, training, False  # layers, dropout, both directions
    before = states if len(states) == 2 else states[0]
    if lengths is None or len(states) == 1 or not call.states_wanted:
        outputs, *finals = kernel(steps, before, weights, *options, True)
        if lengths is None:
            return outputs, [f[0] for f in finals]
        # The kernel reads every row to its end. The output of a row's last step is the final state.
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, outputs.shape[-1])
        return outputs, [outputs.gather(1, last.long())[:, 0]]
    # Packed, since only then the kernel returns the cell state after a row's last step. This is far
    # slower in training.
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        steps, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
    )
    before = [s.index_select(1, packed.sorted_indices) for s in states]
    outputs, *finals = kernel(packed.data, packed.batch_sizes, before, weights, *options)
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(
        packed._replace(data=outputs), batch_first=True, total_length=time
    )
    return outputs, [f[0].index_select(0, packed.unsorted_indices) for f in finals]


def _weights(cell):
    """Returns a cell's weights as PyTorch has them: `W`, `U`, and both biases."""
    (W, *b), (U, *c) = cell.input_weights(), cell.recurrent_weights()
    if b:
        b = [b[0], c[0] if c else ops.zeros_like(b[0])]
    gates = len(cell.gates)
    turned = [
        torch.cat(to_library("torch", cell.gates, torch.chunk(weight, gates, dim=-1)), dim=-1)
        for weight in (W, U, *b)
    ]
    return [turned[0].t().contiguous(), turned[1].t().contiguous(), *turned[2:]]
