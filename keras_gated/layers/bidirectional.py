"""Both directions over a sequence, with the masks and states of the other layers."""

import keras

from keras_gated.layers.base import RNN, outputs_mask
from keras_gated.layers.states import reset_state


@keras.saving.register_keras_serializable(package="keras_gated")
class Bidirectional(keras.layers.Bidirectional):
    """`keras.layers.Bidirectional` with two mistakes corrected.

    A stateful layer that returns its states can be masked (Keras 3.15 raises a TypeError). If
    sequences are returned, the mask goes on to the next layer, also in Keras 3.16, whose layer does
    not pass it on. Everything else is Keras's: the arguments, the weights and their order.

    Args:
        layer: The layer that reads forwards, one of this package or of `keras.layers`.
        merge_mode: How outputs of both directions become one: "concat", "sum", "mul", "ave", or
            None for a list of both.
        weights: Optional list of arrays, the initial weights of both layers.
        backward_layer: Optional layer that reads backwards, built with `go_backwards=True`.
            Default: a copy of `layer` that reads backwards.

    Masked steps: the outputs of both directions are zero there if sequences are returned.

    Call arguments: as for the layer. `initial_state` is a list of the states of the forward layer,
    followed by those of the backward layer.

    Raises:
        ValueError: If the layer has `return_gates=True`, or the number of states does not fit.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.supports_masking = True
        if getattr(self.forward_layer, "return_gates", False):
            raise ValueError(
                "Bidirectional: the layer must not have `return_gates=True`. Received: "
                f"{self.forward_layer!r}. `trace_gates` looks into both directions; for gates as "
                "outputs of a model, use two layers, one with `go_backwards=True`."
            )

    def build(self, sequences_shape=None, initial_state_shape=None):
        super().build(sequences_shape, initial_state_shape)  # None: the layer says what is wrong

    def call(self, sequences, initial_state=None, mask=None, training=None):
        self._check_states(initial_state)
        return super().call(sequences, initial_state, mask, training)

    def compute_output_spec(self, sequences, initial_state=None, *args, **kwargs):
        self._check_states(initial_state)
        return super().compute_output_spec(sequences, initial_state, *args, **kwargs)

    def _check_states(self, initial_state):
        """Raises if there are not states for both layers. Keras gives each layer half of them."""
        if initial_state is None or not isinstance(self.forward_layer, RNN):
            return
        names = self.forward_layer.cell.state_names
        listed = isinstance(initial_state, (list, tuple))
        if not listed or len(initial_state) != 2 * len(names):
            received = f"{len(initial_state)} state(s)" if listed else "a single tensor"
            raise ValueError(
                f"Bidirectional: `initial_state` must be a list of {2 * len(names)} tensors, "
                f"{list(names)} of the forward layer, then those of the backward layer. Received: "
                f"{received}. To start both layers from the same states: states + states."
            )

    def compute_mask(self, sequences, previous_mask=None):
        mask = previous_mask[0] if isinstance(previous_mask, (list, tuple)) else previous_mask
        # Both outputs are in the order of the forward layer's output.
        mask = outputs_mask(self.forward_layer, mask)
        outputs = (mask,) * (2 if self.merge_mode is None else 1)
        if self.return_state:
            return (*outputs, *(None for _ in range(2 * len(self.forward_layer.state_size))))
        return outputs if self.merge_mode is None else outputs[0]

    def reset_state(self, states=None, rows=None):
        """As the function `keras_gated.reset_state`, for both directions."""
        reset_state(self, states, rows)
