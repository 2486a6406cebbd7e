"""Long short-term memory that forgets as much as it stores."""

import keras
from keras import ops

from keras_gated.cells.base import GatedCell
from keras_gated.cells.gates import COUPLED_LSTM_GATES
from keras_gated.cells.products import product


@keras.saving.register_keras_serializable(package="keras_gated")
class CoupledLSTMCell(GatedCell):
    """One step of long short-term memory with one gate for what is stored and what is forgotten.

        i_t = sigmoid(W_i x_t + U_i h_{t-1} + b_i)
        g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)
        c_t = (1 - i_t) * c_{t-1} + i_t * g_t
        o_t = sigmoid(W_o x_t + U_o h_{t-1} + b_o)
        h_t = o_t * tanh(c_t)

    ONNX calls this variant `input_forget`.

    {arguments}

    {call}

    Weights: `kernel (features, 3 * units)`, `recurrent_kernel (units, 3 * units)`,
    `bias (3 * units,)`: input, candidate, output.

    Reference: Greff et al. 2015, arXiv:1503.04069, section 3 (CIFG).
    """

    gates = COUPLED_LSTM_GATES
    state_names = ("hidden", "memory")
    reads = ("activation", "recurrent_activation")

    def step(self, x, states, weights):
        h, c = states
        [U] = weights
        a_i, a_g, a_o = ops.split(x + product(h, U), 3, axis=-1)
        i = self.recurrent_activation(a_i)
        g = self.activation(a_g)
        c = (1 - i) * c + i * g
        o = self.recurrent_activation(a_o)
        h = o * self.activation(c)
        return self.step_type(input=i, candidate=g, output=o, hidden=h, memory=c)

    def carried(self, step):
        return 1 - step.input
