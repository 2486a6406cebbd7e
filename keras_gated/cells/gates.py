"""The names of gates and states, and their order in the weights of this and other libraries.

Every other file uses names such as `forget` or `update`. Only this file knows which columns of a
kernel a gate has in each library. Our order is that of `keras.layers`.

| library | LSTM                             | GRU                      | z = 1 of the GRU     |
| ------- | -------------------------------- | ------------------------ | -------------------- |
| ours    | input, forget, candidate, output | update, reset, candidate | writes the new state |
| Keras   | input, forget, candidate, output | update, reset, candidate | keeps the old state  |
| PyTorch | input, forget, candidate, output | reset, update, candidate | keeps the old state  |
| cuDNN   | input, forget, candidate, output | reset, update, candidate | keeps the old state  |
| ONNX    | input, output, forget, candidate | update, reset, candidate | keeps the old state  |
| LiteRT  | input, forget, candidate, output |                          |                      |

A vanilla RNN has one block, `hidden`, in every library. Where z keeps the old state, a conversion
negates the columns of z in kernels and biases, since 1 - sigmoid(a) = sigmoid(-a). PyTorch and
cuDNN call the update gate z, too; ONNX calls the candidate of the LSTM c and that of the GRU h.

The words mean the same for all families: `input`, `forget`, `output`, `update` and `reset`
are sigmoids between 0 (closed) and 1 (open); `candidate` is the new memory content;
`memory` is the LSTM's separate cell state; `hidden` is the state that is also the output.
"""

import itertools
from typing import Any, NamedTuple

SIMPLE_RNN_GATES = ("hidden",)
LSTM_GATES = ("input", "forget", "candidate", "output")
COUPLED_LSTM_GATES = ("input", "candidate", "output")  # forgets what it does not store
GRU_GATES = ("update", "reset", "candidate")

_ORDERS = {
    "keras": {LSTM_GATES: LSTM_GATES, GRU_GATES: GRU_GATES},
    "torch": {LSTM_GATES: LSTM_GATES, GRU_GATES: ("reset", "update", "candidate")},
    "cudnn": {LSTM_GATES: LSTM_GATES, GRU_GATES: ("reset", "update", "candidate")},
    "onnx": {
        LSTM_GATES: ("input", "output", "forget", "candidate"),
        COUPLED_LSTM_GATES: ("input", "output", "forget", "candidate"),
        GRU_GATES: GRU_GATES,
    },
    "litert": {LSTM_GATES: LSTM_GATES},  # the order of its converter; a file stores gates apart
}


def to_library(library, gates, blocks):
    """Returns our blocks as another library stores them, in its order.

    A gate that only the other library has is filled with zeros.

    Args:
        library: "keras", "torch", "cudnn", "onnx" or "litert".
        gates: The names of our gates, in our order.
        blocks: Arrays or tensors, one for each gate: its columns of a kernel or a bias.
    """
    of_gate = dict(zip(gates, blocks, strict=True))
    return [
        _turned(gate, of_gate[gate]) if gate in of_gate else 0 * blocks[0]
        for gate in order_in(library, gates)
    ]


def from_library(library, gates, blocks):
    """Returns our blocks, in our order, from those of another library: undoes `to_library`."""
    of_gate = dict(zip(order_in(library, gates), blocks, strict=True))
    return [_turned(gate, of_gate[gate]) for gate in gates]


def order_in(library, gates):
    """Returns the names of the gates in the order of another library."""
    return _ORDERS[library].get(gates, gates)


def _turned(gate, block):
    """Negates an update gate's block: other libraries' update gates keep what ours overwrites."""
    return -block if gate == "update" else block


def apart(tensor, widths):
    """Returns the columns of a tensor, `(..., sum of the widths)`, as tensors of these widths."""
    ends = list(itertools.accumulate(widths, initial=0))
    return [tensor[..., start:end] for start, end in itertools.pairwise(ends)]


class LSTMStep(NamedTuple):
    """What one step of an LSTM computes, each `(batch, units)`; projected: `hidden` is narrower."""

    input: Any
    forget: Any
    candidate: Any
    output: Any
    memory: Any
    hidden: Any


class GRUStep(NamedTuple):
    """What one step of a GRU computes, each `(batch, units)`."""

    update: Any
    reset: Any
    candidate: Any
    # The candidate's term of h_{t-1}: U_h h_{t-1} + c_h before the reset, or U_h (r * h_{t-1}).
    recalled: Any
    hidden: Any
