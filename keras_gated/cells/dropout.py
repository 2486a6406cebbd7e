"""Masks of dropout: drawn once a call, for all steps of a sequence."""

from keras import ops

# Keras's recurrent layers draw a dropout mask once a sequence only for cells of this class.
# It is not public; a cell without it would be given a new mask at every step.
from keras.src.backend.common import global_state
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell


def dropped(tensor, mask):
    """Returns `tensor` with a dropout mask applied, where there is one."""
    return tensor if mask is None else tensor * ops.cast(mask, tensor.dtype)


class MasksOfACall(DropoutRNNCell):
    """What a cell drops in a call, of its inputs, its hidden state and its recurrent kernel."""

    _recurrent_weight_mask = None

    def dropout_mask(self, step_input):
        """Returns the mask of this call, drawn for `step_input` if there is none yet."""
        if step_input is not None:  # Keras scales it, so it must not be of whole numbers
            step_input = ops.cast(step_input, self.state_dtype)
        return super().get_dropout_mask(step_input)

    def recurrent_dropout_mask(self, hidden):
        """Returns the mask of the hidden state of this call, drawn if there is none yet."""
        self.recurrent_weight_mask()  # now, before Keras's loop begins
        return super().get_recurrent_dropout_mask(hidden)

    def recurrent_weight_mask(self):
        """Returns the mask of the recurrent kernel of this call, drawn if there is none yet."""
        if self.recurrent_weight_dropout and self._recurrent_weight_mask is None:
            ones = ops.ones(self.recurrent_kernel.shape, self.state_dtype)
            self._recurrent_weight_mask = self._create_dropout_mask(
                ones, self.recurrent_weight_dropout
            )
        return self._recurrent_weight_mask

    def get_dropout_mask(self, step_input):
        """As `dropout_mask`, for `keras.layers.RNN`, which asks for it in every call.

        At inference none may be drawn: a graph that draws cannot be served.
        """
        return None if _at_inference() else self.dropout_mask(step_input)

    def get_recurrent_dropout_mask(self, step_input):
        """As `recurrent_dropout_mask`, where `keras.layers.RNN` asks for it."""
        return None if _at_inference() else self.recurrent_dropout_mask(step_input)

    def reset_recurrent_dropout_mask(self):
        super().reset_recurrent_dropout_mask()
        self._recurrent_weight_mask = None

    def _create_dropout_mask(self, step_input, dropout_rate):
        if dropout_rate == 1:  # Keras 3.12 refuses to drop everything
            return ops.zeros_like(step_input)
        return super()._create_dropout_mask(step_input, dropout_rate)


def _at_inference():
    context = global_state.get_global_attribute("current_call_ctx")
    return context is not None and not context.get_value("training")
