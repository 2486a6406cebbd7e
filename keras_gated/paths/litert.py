"""An LSTM over a sequence as one operation of LiteRT, `UNIDIRECTIONAL_SEQUENCE_LSTM`.

LiteRT's converter replaces a function by the operation if the attributes below mark the function as
an LSTM of Keras, and it has six arguments and five results (TensorFlow 2.21,
`compiler/mlir/lite/transforms/prepare_composite_functions_tf.cc`). It reads the output of the last
step or of all steps, and no other result. The operation knows no mask.

If its states are constants, the operation keeps them between calls: every call but the first begins
where the last call ended. It ignores constant states other than zero. So the states are computed
here, from the sequences. In full 8 bits, the operation takes only constants: `constant_states`.
"""

import uuid

import numpy as np
import tensorflow as tf

from keras_gated.cells.equations import equations_of
from keras_gated.cells.gates import LSTM_GATES, to_library
from keras_gated.paths import kernels
from keras_gated.paths.path import Results

_ATTRIBUTES = {"api_preferred_device": "CPU", "time_major": False, "go_backwards": False}


class Operation:
    """A `Path`. It needs at least one step: without a step, the last output is undefined, not zero.

    Args:
        constant_states: Whether the states are constant zeros, which the operation itself changes.
            The program that runs the file then sets them to zeros before each sequence.
    """

    def __init__(self, constant_states):
        self.constant_states, self._calls = constant_states, 0

    def why_not(self, call):
        """As in `Path`. Only the whole graph shows whether the final memory is read."""
        cell = call.cell
        reason = kernels.why_unknown(call, "LiteRT")
        if getattr(cell, "gates", None) != LSTM_GATES:
            return "LiteRT has one operation for an LSTM alone"
        if reason:
            return reason
        if call.mask is not None:
            return "its steps are masked, and the operation knows no mask"
        if cell.state_dtype != "float32":
            return f"it computes in {cell.state_dtype}, and the operation in float32"
        if self.constant_states and not all(map(_is_zero, call.states)):
            return "it is given states, and in 8 bits the operation begins with zeros alone"
        return None

    def run(self, call):
        """As in `Path`."""
        cell, backwards = call.cell, call.layer.go_backwards
        x = tf.cast(call.sequences, "float32")
        x = tf.reverse(x, [1]) if backwards else x
        self._calls += 1
        states = call.states
        states = states if self.constant_states else _computed(states, x, self._calls)
        (W, *b), [U] = cell.input_weights(), cell.recurrent_weights()
        b = b or [tf.zeros([W.shape[1]])]
        weights = [
            tf.concat(to_library("litert", cell.gates, tf.split(w, len(cell.gates), -1)), -1)
            for w in (W, U, *b)
        ]
        last, outputs, _, memory, _ = _function(cell)(x, *states, *weights)
        shape = [*call.sequences.shape[:2], cell.units]
        outputs = tf.ensure_shape(outputs, shape)
        if backwards and not call.outputs_reversed:
            outputs = tf.reverse(outputs, [1])
        return Results(last, [outputs] * len(call.fields), [last, memory])


def _is_zero(state):
    value = tf.get_static_value(state)
    return value is not None and not np.any(value)


def _computed(states, x, number):
    """Returns the states as computed tensors, not constants: zeros computed from `x` are added.

    The states come out of a split, and every call has a split for itself. An interpreter without
    delegates crashes where an addition writes into a state, and no two operations can share one.
    """
    widths = [state.shape[-1] for state in states]
    zeros = tf.nn.relu(tf.constant(-float(number), shape=[1, sum(widths)]) - tf.abs(x[:, 0, :1]))
    if not all(map(_is_zero, states)):
        zeros = tf.concat(states, -1) + zeros
    return tf.split(zeros, widths, axis=-1)


def _function(cell):
    """Returns an LSTM with the arguments, results and name that LiteRT's converter knows."""
    equations = equations_of(cell)

    def lstm(x, hidden, memory, kernel, recurrent_kernel, bias):
        def step(states, x):
            made = equations.step(equations.project(x, (kernel, bias)), states, (recurrent_kernel,))
            return made.hidden, made.memory

        hiddens, memories = tf.scan(step, tf.transpose(x, [1, 0, 2]), (hidden, memory))
        runtime = tf.constant(1.0)  # the device on which Keras 2 ran
        return hiddens[-1], tf.transpose(hiddens, [1, 0, 2]), hiddens[-1], memories[-1], runtime

    attributes = {"api_implements": f"lstm_{uuid.uuid4().hex}", **_ATTRIBUTES}
    return tf.function(lstm, autograph=False, experimental_attributes=attributes)
