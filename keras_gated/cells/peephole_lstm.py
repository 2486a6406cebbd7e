"""Long short-term memory whose gates see the cell state."""

import keras
from keras import ops

from keras_gated.cells.lstm import LSTMCell
from keras_gated.cells.products import product


@keras.saving.register_keras_serializable(package="keras_gated")
class PeepholeLSTMCell(LSTMCell):
    """One step of long short-term memory with peepholes: the gates see the cell state, too.

        f_t = sigmoid(W_f x_t + U_f h_{t-1} + p_f * c_{t-1} + b_f)
        i_t = sigmoid(W_i x_t + U_i h_{t-1} + p_i * c_{t-1} + b_i)
        g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)
        c_t = f_t * c_{t-1} + i_t * g_t
        o_t = sigmoid(W_o x_t + U_o h_{t-1} + p_o * c_t + b_o)
        h_t = o_t * tanh(c_t)

    It replaces `tfa.rnn.PeepholeLSTMCell`, with the same arguments, equations and weights.

    {arguments}

    {call}

    Weights: those of `LSTMCell`, then `input_gate_peephole_weights`,
    `forget_gate_peephole_weights` and `output_gate_peephole_weights`, each `(units,)`, which
    `kernel_initializer` draws.

    Reference: Gers, Schraudolph and Schmidhuber 2002, Learning precise timing with LSTM recurrent
    networks, equations 1 to 5.
    """

    reads = ()  # nothing besides the names that `LSTMCell` lists
    without = ("projection",)

    def weight_shapes(self, features):
        names = [f"{gate}_gate_peephole_weights" for gate in ("input", "forget", "output")]
        return {**super().weight_shapes(features), **dict.fromkeys(names, (self.units,))}

    def step(self, x, states, weights):
        h, c = states
        U, p_i, p_f, p_o = weights
        a_i, a_f, a_g, a_o = ops.split(x + product(h, U), 4, axis=-1)
        f = self.recurrent_activation(a_f + p_f * c)
        i = self.recurrent_activation(a_i + p_i * c)
        g = self.activation(a_g)
        c = f * c + i * g
        o = self.recurrent_activation(a_o + p_o * c)
        h = o * self.activation(c)
        return self.step_type(input=i, forget=f, candidate=g, output=o, memory=c, hidden=h)
