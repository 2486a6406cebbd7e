"""minGRU and minLSTM: gates that see the inputs alone."""

import keras
from keras import ops

from keras_gated.cells.base import GatedCell


class _Minimal(GatedCell):
    """A cell without a recurrent kernel."""

    without = ("recurrent_initializer", "recurrent_regularizer", "recurrent_constraint",
               "recurrent_dropout", "recurrent_weight_dropout")  # fmt: skip

    def __init__(self, units: int, activation="linear", **kwargs):
        super().__init__(units, activation, **kwargs)

    def weight_shapes(self, features):
        shapes = super().weight_shapes(features)
        return {name: shape for name, shape in shapes.items() if name != "recurrent_kernel"}


@keras.saving.register_keras_serializable(package="keras_gated")
class MinGRUCell(_Minimal):
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


@keras.saving.register_keras_serializable(package="keras_gated")
class MinLSTMCell(_Minimal):
    """One step of minLSTM, whose gates see the input alone and sum to one.

        f_t, i_t = sigmoid(W_f x_t + b_f), sigmoid(W_i x_t + b_i)
        n_t = W_h x_t + b_h
        h_t = (f_t * h_{t-1} + i_t * n_t) / (f_t + i_t)

    A step's `forget` and `input` are what acts: the gates divided by their sum.

    {arguments}
        activation: The function of `n_t`. Default: `linear`.

    {call}

    Weights: `kernel (features, 3 * units)`, `bias (3 * units,)`: input, forget, candidate.

    Reference: Feng et al. 2024, arXiv:2410.01201, section 3.2.4.
    """

    gates, reads = ("input", "forget", "candidate"), ("activation", "recurrent_activation")

    def step(self, x, states, weights):
        [h] = states
        x_i, x_f, x_h = ops.split(x, 3, axis=-1)
        i, f = self.recurrent_activation(x_i), self.recurrent_activation(x_f)
        i, f, n = i / (f + i), f / (f + i), self.activation(x_h)
        return self.step_type(input=i, forget=f, candidate=n, hidden=f * h + i * n)

    def carried(self, step):
        return step.forget
