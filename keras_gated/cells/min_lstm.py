"""minLSTM: gates that see the input alone and sum to one."""

import keras
from keras import ops

from keras_gated.cells.input_gated import InputGatedCell


@keras.saving.register_keras_serializable(package="keras_gated")
class MinLSTMCell(InputGatedCell):
    """One step of minLSTM, whose gates see the input alone and sum to one.

        f_t, i_t = sigmoid(W_f x_t + b_f), sigmoid(W_i x_t + b_i)
        n_t = W_h x_t + b_h
        h_t = (f_t * h_{t-1} + i_t * n_t) / (f_t + i_t)

    The `forget` and `input` of a step are the gates divided by their sum, as they act on `h_t`.

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
