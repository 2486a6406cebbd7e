"""The minimal gated unit: one gate."""

import keras
from keras import ops

from keras_gated.cells.base import GatedCell
from keras_gated.cells.products import product


@keras.saving.register_keras_serializable(package="keras_gated")
class MGUCell(GatedCell):
    """One step of the minimal gated unit, a GRU whose two gates are one gate.

        z_t = sigmoid(W_z x_t + U_z h_{t-1} + b_z)
        n_t = tanh(W_h x_t + U_h (z_t * h_{t-1}) + b_h)
        h_t = z_t * n_t + (1 - z_t) * h_{t-1}

    The paper calls the gate f, the forget gate. This cell calls it `update`, after what it does.

    {arguments}

    {call}

    Weights: `kernel (features, 2 * units)`, `recurrent_kernel (units, 2 * units)`,
    `bias (2 * units,)`: update, candidate.

    Reference: Zhou et al. 2016, arXiv:1603.09420, equations 6 to 8.
    """

    gates = ("update", "candidate")
    reads = ("activation", "recurrent_activation")

    def recurrent_weights(self, mask=None):
        [U] = super().recurrent_weights(mask)
        return U[:, : self.units], U[:, self.units :]

    def step(self, x, states, weights):
        [h] = states
        U_z, U_h = weights
        x_z, x_h = ops.split(x, 2, axis=-1)
        z = self.recurrent_activation(x_z + product(h, U_z))
        n = self.activation(x_h + product(z * h, U_h))
        return self.step_type(update=z, candidate=n, hidden=z * n + (1 - z) * h)

    def carried(self, step):
        return 1 - step.update
