"""The gated recurrent unit with layer normalization."""

import keras
from keras import ops

from keras_gated.cells.base import GatedCell
from keras_gated.cells.gates import GRU_GATES
from keras_gated.cells.layer_norm import LayerNormalized
from keras_gated.cells.products import product


@keras.saving.register_keras_serializable(package="keras_gated")
class LayerNormGRUCell(LayerNormalized, GatedCell):
    """One step of a gated recurrent unit with layer normalization, N, of every sum.

        z_t, r_t = sigmoid(N(W_zr x_t) + N(U_zr h_{t-1}) + b_zr)   one N for both gates
        n_t = tanh(N(W_h x_t) + r_t * N(U_h h_{t-1}) + b_h)
        h_t = z_t * n_t + (1 - z_t) * h_{t-1}

    {arguments}
        norm_gamma_initializer, norm_beta_initializer: Initializers of the gains and shifts of N.
        norm_epsilon: Added to the variance in N.

    {call}

    Weights: `kernel (features, 3 * units)`, `recurrent_kernel (units, 3 * units)`,
    `bias (3 * units,)`: update, reset, candidate; then the gains and shifts of N, each
    `(3 * units,)`: `kernel_norm_gamma`, `kernel_norm_beta`, `recurrent_norm_gamma`,
    `recurrent_norm_beta`.

    Reference: Ba, Kiros and Hinton 2016, arXiv:1607.06450, supplementary material, GRU.
    """

    gates = GRU_GATES
    reads = ("activation", "recurrent_activation", "norm_epsilon")

    def weight_shapes(self, features):
        norms = self.norm_shapes(kernel=3 * self.units, recurrent=3 * self.units)
        return {**super().weight_shapes(features), **norms}

    def project(self, inputs, weights):
        W, *b, gamma, beta = weights
        a = self._gates_and_candidate(product(inputs, W, recurrent=False), gamma, beta)
        return a + b[0] if b else a

    def step(self, x, states, weights):
        [h] = states
        U, gamma, beta = weights
        x_z, x_r, x_h = ops.split(x, 3, axis=-1)
        u_z, u_r, u_h = ops.split(self._gates_and_candidate(product(h, U), gamma, beta), 3, axis=-1)
        z = self.recurrent_activation(x_z + u_z)
        r = self.recurrent_activation(x_r + u_r)
        n = self.activation(x_h + r * u_h)
        return self.step_type(update=z, reset=r, candidate=n, hidden=z * n + (1 - z) * h)

    def carried(self, step):
        return 1 - step.update

    def _gates_and_candidate(self, sums, gamma, beta):
        """Normalizes the sums of both gates together, and those of the candidate alone."""
        gates = 2 * self.units
        both = self.normalized(sums[..., :gates], gamma[:gates], beta[:gates])
        alone = self.normalized(sums[..., gates:], gamma[gates:], beta[gates:])
        return ops.concatenate([both, alone], axis=-1)
