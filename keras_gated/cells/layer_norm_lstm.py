"""Long short-term memory with layer normalization."""

import keras
from keras import ops

from keras_gated.cells.base import GatedCell
from keras_gated.cells.layer_norm import LayerNormalized
from keras_gated.cells.lstm import LSTMCell
from keras_gated.cells.products import product


@keras.saving.register_keras_serializable(package="keras_gated")
class LayerNormLSTMCell(LayerNormalized, LSTMCell):
    """One step of long short-term memory with layer normalization, N, of every sum.

        a_t = N(W x_t) + N(U h_{t-1}) + b   one N for all four gates
        f_t, i_t, o_t = sigmoid(a_f), sigmoid(a_i), sigmoid(a_o);  g_t = tanh(a_g)
        c_t = N(f_t * c_{t-1} + i_t * g_t)
        h_t = o_t * tanh(c_t)

    It replaces `tfa.rnn.LayerNormLSTMCell`, with the same arguments, equations and weights. As in
    that cell, the next step gets the normalized `c_t`. In the paper, it gets `c_t` before N.

    {arguments}
        norm_gamma_initializer, norm_beta_initializer: Initializers of the gains and shifts of N.
        norm_epsilon: Added to the variance in N.

    {call}

    Weights: those of `LSTMCell`, then the gain and the shift of each N: `kernel_norm_gamma`,
    `kernel_norm_beta`, `recurrent_norm_gamma`, `recurrent_norm_beta`, each `(4 * units,)`, and
    `state_norm_gamma`, `state_norm_beta`, each `(units,)`.

    Reference: Ba, Kiros and Hinton 2016, arXiv:1607.06450, equations 20 to 22.
    """

    reads = ("norm_epsilon",)
    without = ("projection",)
    carried = GatedCell.carried  # None: N scales what a gate keeps

    def weight_shapes(self, features):
        sums = 4 * self.units
        norms = self.norm_shapes(kernel=sums, recurrent=sums, state=self.units)
        return {**super().weight_shapes(features), **norms}

    def project(self, inputs, weights):
        W, *b, gamma, beta = weights
        a = self.normalized(product(inputs, W, recurrent=False), gamma, beta)
        return a + b[0] if b else a

    def step(self, x, states, weights):
        h, c = states
        U, *of_recurrent, state_gamma, state_beta = weights
        a = x + self.normalized(product(h, U), *of_recurrent)
        a_i, a_f, a_g, a_o = ops.split(a, 4, axis=-1)
        f = self.recurrent_activation(a_f)
        i = self.recurrent_activation(a_i)
        g = self.activation(a_g)
        c = self.normalized(f * c + i * g, state_gamma, state_beta)
        o = self.recurrent_activation(a_o)
        h = o * self.activation(c)
        return self.step_type(input=i, forget=f, candidate=g, output=o, memory=c, hidden=h)
