"""Long short-term memory whose input and hidden state gate each other first."""

import keras

from keras_gated.cells.arguments import positive_integer
from keras_gated.cells.lstm import LSTMCell
from keras_gated.cells.products import product


@keras.saving.register_keras_serializable(package="keras_gated")
class MogrifierLSTMCell(LSTMCell):
    """One step of the Mogrifier LSTM: input and hidden state gate each other, then an LSTM step.

        x^i = 2 sigmoid(Q^i h^{i-1}) * x^{i-2}, for odd i = 1, 3, ... up to `rounds`
        h^i = 2 sigmoid(R^i x^{i-1}) * h^{i-2}, for even i = 2, 4, ... up to `rounds`

    The rounds begin with x^{-1} = x_t and h^0 = h_{t-1}. The last x^i and h^i replace x_t and
    h_{t-1} in the equations of `LSTMCell`. With `rank`, each Q^i and R^i is a product of two
    narrow matrices, which have fewer weights.

    {arguments}
        recurrent_activation: The function of all gates. Default: `sigmoid`.
        recurrent_dropout: Fraction of the hidden state dropped in the products with `U` and Q^i.
        rounds: Positive integer, the number of rounds. Each gates the input or the hidden state.
        rank: Optional positive integer, the inner size of the two factors of each Q^i and R^i.

    {call}

    Weights: those of `LSTMCell`, then for each round `mogrifier_<i>`: Q^i, `(units, features)`, or
    R^i, `(features, units)`. With `rank`, `mogrifier_<i>_down` and `mogrifier_<i>_up` have `rank`
    columns and rows. `kernel_initializer` draws all of them, and they have no biases.

    Reference: Melis, Kocisky and Blunsom 2020, arXiv:1909.01792, equations 1 and 2.
    """

    reads = ("rounds", "rank")
    without = ("projection",)

    def __init__(self, units: int, *args, rounds: int = 5, rank: int | None = None, **kwargs):
        super().__init__(units, *args, **kwargs)
        self.rounds, self.rank = positive_integer(self.owner, "rounds", rounds), rank
        if rank is not None:
            self.rank = positive_integer(self.owner, "rank", rank)

    def weight_shapes(self, features):
        shapes = super().weight_shapes(features)
        for i in range(1, self.rounds + 1):
            rows, columns = (self.units, features) if i % 2 else (features, self.units)
            if self.rank:
                shapes[f"mogrifier_{i}_down"] = (rows, self.rank)
                shapes[f"mogrifier_{i}_up"] = (self.rank, columns)
            else:
                shapes[f"mogrifier_{i}"] = (rows, columns)
        return shapes

    def input_weights(self):
        return ()  # the input is gated by the state of the step before: `step` projects it

    def project(self, inputs, weights):
        return inputs

    def recurrent_weights(self, mask=None):
        return (*super().recurrent_weights(mask), *super().input_weights())

    def step(self, x, states, weights):
        h, c = states
        U, *rest = weights
        number = 2 if self.rank else 1
        for i in range(1, self.rounds + 1):
            factors, rest = rest[:number], rest[number:]
            if i % 2:
                x = 2 * self.recurrent_activation(_multiplied(h, *factors)) * x
            else:
                h = 2 * self.recurrent_activation(_multiplied(x, *factors, recurrent=False)) * h
        return super().step(super().project(x, rest), [h, c], [U])


def _multiplied(vectors, first, *second, recurrent=True):
    made = product(vectors, first, recurrent)
    return product(made, *second, recurrent=False) if second else made
