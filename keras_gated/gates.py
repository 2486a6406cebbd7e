"""The words for gates and states, and the order in which weights store them.

Every other file says `forget` or `update`; only this one knows which columns of a kernel
those are. The order is that of `keras.layers`, so weights move between the two as they are.

| family    | columns of `kernel` and `recurrent_kernel`, each `units` wide |
| --------- | ------------------------------------------------------------- |
| SimpleRNN | hidden                                                        |
| LSTM      | input, forget, candidate, output                              |
| GRU       | update, reset, candidate                                      |

The words mean the same for all families: `input`, `forget`, `output`, `update` and `reset`
are sigmoids between 0 (closed) and 1 (open); `candidate` is the new memory content;
`memory` is the LSTM's separate cell state; `hidden` is the state that is also the output.
"""

from typing import Any, NamedTuple

SIMPLE_RNN_GATES = ("hidden",)
LSTM_GATES = ("input", "forget", "candidate", "output")
GRU_GATES = ("update", "reset", "candidate")

# cuDNN's order of the same gates; its update gate keeps the old state.
CUDNN_GATES = {
    LSTM_GATES: ("input", "forget", "candidate", "output"),
    GRU_GATES: ("reset", "update", "candidate"),
}


class SimpleRNNStep(NamedTuple):
    """What one step of a vanilla RNN computes, each `(batch, units)`."""

    hidden: Any


class LSTMStep(NamedTuple):
    """What one step of an LSTM computes, each `(batch, units)`."""

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
    recalled: Any  # what of h_{t-1} the candidate is offered: U_h h_{t-1} + c_h
    hidden: Any
