"""A model that reads a sequence in pieces: its states are explicit inputs and outputs."""

import contextlib
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_gated import keras_private
from keras_gated.layers.base import RNN
from keras_gated.paths import plain
from keras_gated.paths.path import exporting
from keras_gated.paths.recorder import recording
from keras_gated.serve.inputs import example_of, packed

_PIECES = (1, 2, 3)  # steps, of the sequence that a model must answer as it does to the whole
_ROWS = 16  # that a model of any batch size is checked with, so that no luck hides a difference
_TOLERANCE = 1e-4  # of the largest answer, and at least of 1


class Stepper:
    """Calls a model with the states of its recurrent layers, and returns the new states.

    The model is called as it is. So the pieces of a sequence, one after the other, give the
    outputs of the whole sequence.

    Args:
        model: A model whose recurrent layers are ours, read forwards and are called once each.

    Attributes:
        states: State name to its `tf.TensorSpec`, `(batch, width)`: `<layer>_hidden`, and for an
            LSTM `<layer>_memory`, too.
        layer_of: State name to the name of its layer.

    Raises:
        ValueError: If the states of a recurrent layer cannot be carried on. The message names it.
    """

    def __init__(self, model):
        self.model, self._layers = model, []
        for layer in keras_private.parts_of(model):
            if isinstance(layer, keras.layers.RNN):
                reason = _why_not(layer)
                if reason:
                    raise ValueError(
                        f"The states of {layer.name!r} cannot be inputs and outputs: {reason}. "
                        f"Received: {layer!r}."
                    )
                self._layers.append(layer)
        if not self._layers:
            raise ValueError(
                f"{model.name!r} has no states: it holds no recurrent layer of keras_gated."
            )
        self.states = {
            f"{layer.name}_{name}": tf.TensorSpec((None, width), layer.cell.state_dtype)
            for layer in self._layers
            for name, width in _widths(layer.cell).items()
        }
        self.layer_of = {
            f"{layer.name}_{name}": layer.name
            for layer in self._layers
            for name in layer.cell.state_names
        }
        count = sum(len(layer.cell.state_names) for layer in self._layers)
        if len(self.states) != count:
            raise ValueError(
                f"Two recurrent layers of {model.name!r} have the same name. Received: "
                f"{[layer.name for layer in self._layers]}. Give them names of their own."
            )

    def zeros(self, batch):
        """Returns the states before the first step of `batch` rows, by name."""
        return {
            name: tf.zeros([batch, spec.shape[1]], spec.dtype) for name, spec in self.states.items()
        }

    def weights(self):
        """Returns the layers' weights, read once before a loop of single steps."""
        return {id(layer): plain.weights_of(layer.cell) for layer in self._layers}

    def __call__(self, inputs, states, mask=None, weights=None):
        """Returns the outputs and the new states, by name."""
        given = {
            id(layer): [states[f"{layer.name}_{name}"] for name in layer.cell.state_names]
            for layer in self._layers
        }
        with recording("states", given, weights) as calls, masks_of_inputs():
            outputs = self.model(inputs, training=False, mask=mask)
        check_masked(calls, mask)
        if sorted(id(call.layer) for call in calls) != sorted(given):
            raise ValueError(
                "Every recurrent layer must be called once for its states to be inputs and "
                f"outputs. Received: calls of {[call.layer.name for call in calls]}."
            )
        new = {
            f"{call.layer.name}_{name}": tf.ensure_shape(state, [None, width])
            for call in calls
            for (name, width), state in zip(
                _widths(call.layer.cell).items(), call.finals, strict=True
            )
        }
        return outputs, {name: new[name] for name in self.states}


def check_pieces(stepper, owner):
    """Raises unless a model answers a sequence in pieces as it answers the whole one.

    Args:
        stepper: The `Stepper` of a model, of which an input has a free number of steps.
        owner: The function that a user called.
    """
    model = stepper.model
    timed = [len(x.shape) > 1 and x.shape[1] is None for x in model.inputs]
    whole = _examples(model)
    states = stepper.zeros(len(whole[0]))
    start, received = 0, []
    with exporting():  # compiled loops would be compiled for each length
        expected = model(packed(model, whole), training=False)
        for steps in _PIECES:
            piece = [
                x[:, start : start + steps] if t else x for x, t in zip(whole, timed, strict=True)
            ]
            answer, states = stepper(packed(model, piece), states)
            received.append(tree.flatten(answer))
            start += steps
    for parts, answer in zip(zip(*received, strict=True), tree.flatten(expected), strict=True):
        parts, answer = [np.asarray(part) for part in parts], np.asarray(answer)
        last = parts[-1].shape == answer.shape
        joined = parts[-1] if last else np.concatenate(parts, axis=1)
        scale = max(1, np.max(np.abs(answer), initial=0))
        if joined.shape != answer.shape or np.max(np.abs(joined - answer)) > _TOLERANCE * scale:
            raise ValueError(
                f"{owner}: {model.name!r} answers a sequence in pieces differently from the whole "
                "one: a layer besides the recurrent ones looks at more than one step (`Conv1D`, "
                "pooling, attention). Leave it out of the model."
            )


def _examples(model):
    """Returns rows that differ from step to step: numbers around 0, and ids of no padding."""
    draws, examples = np.random.default_rng(0), []
    embeddings = (
        layer.input_dim
        for layer in keras_private.parts_of(model)
        if isinstance(layer, keras.layers.Embedding)
    )
    ids = max(2, min(embeddings, default=2))
    for x in model.inputs:
        one = example_of(x.shape, x.dtype, sum(_PIECES))
        shape = (x.shape[0] or _ROWS, *one.shape[1:])
        if np.issubdtype(one.dtype, np.floating):
            one = draws.normal(size=shape).astype(one.dtype)
        elif np.issubdtype(one.dtype, np.integer):
            one = draws.integers(1, ids, size=shape).astype(one.dtype)
        examples.append(np.broadcast_to(one, shape))
    return examples


def _widths(cell):
    return dict(zip(cell.state_names, cell.state_widths(), strict=True))


@contextlib.contextmanager
def masks_of_inputs():
    """Lets a functional model be called with masks without a warning.

    The model gives the masks to its layers. Keras warns because the model itself passes none on.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Layer .* was passed an input with a mask")
        yield


def check_masked(calls, mask):
    """Raises if a model was called with masks and a recurrent layer got none."""
    for call in calls:
        if mask is not None and call.mask is None:
            raise ValueError(
                f"export_model: `lengths` do not reach {call.layer.name!r}: a layer before it "
                "drops the mask. Use layers that pass masks on (for ids: "
                "`Embedding(mask_zero=True)`)."
            )


def _why_not(layer):
    if not isinstance(layer, RNN):
        return "it is not a layer of keras_gated"
    if layer.go_backwards:
        return "it reads the sequence from its end, so what comes later comes before its state"
    if layer.stateful:
        return "it keeps them itself; build it with `stateful=False` and load the same weights"
    return None
