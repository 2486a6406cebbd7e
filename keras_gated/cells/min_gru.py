"""minGRU: a GRU whose gate and candidate see the input alone."""

import keras
from keras import ops

from keras_gated.cells.input_gated import InputGatedCell


@keras.saving.register_keras_serializable(package="keras_gated")
class MinGRUCell(InputGatedCell):
    """One step of minGRU, a GRU whose gate and candidate see the input alone.

        z_t = sigmoid(W_z x_t + b_z)
        n_t = W_h x_t + b_h
        h_t = z_t * n_t + (1 - z_t) * h_{t-1}

    {arguments}
        activation: The function of `n_t`. Default: `linear`.

    {call}

    Weights: `kernel (features, 2 * units)`, `bias (2 * units,)`: update, candidate.

    Reference: Feng et al. 2024, arXiv:2410.01201, section 3.1.3.
    """

    gates, reads = ("update", "candidate"), ("activation", "recurrent_activation")

    def step(self, x, states, weights):
        [h] = states
        x_z, x_h = ops.split(x, 2, axis=-1)
        z, n = self.recurrent_activation(x_z), self.activation(x_h)
        return self.step_type(update=z, candidate=n, hidden=z * n + (1 - z) * h)

    def carried(self, step):
        return 1 - step.update
