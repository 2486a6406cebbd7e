"""A model that reads a sequence in pieces: its states are explicit inputs and outputs."""

import contextlib
import itertools
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
from keras_gated.serve.difference import difference
from keras_gated.serve.inputs import example_of, packed, random_values

_PIECES = (1, 2, 3)  # steps, of the sequence that a model must answer as it does to the whole
_ROWS = 16  # that a model of any batch size is checked with, so that no luck hides a difference
_TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2}  # and 1e-4 in 32 and 64 bits


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
        layers: The recurrent layers.

    Raises:
        ValueError: If the states of a recurrent layer cannot be carried on. The message names it.
    """

    def __init__(self, model):
        self.model, self.layers = model, []
        for layer in keras_private.parts_of(model):
            if isinstance(layer, keras.layers.RNN):
                reason = _why_not(layer)
                if reason:
                    raise ValueError(
                        f"The states of {layer.name!r} cannot be inputs and outputs: {reason}. "
                        f"Received: {layer!r}."
                    )
                self.layers.append(layer)
        if not self.layers:
            raise ValueError(
                f"{model.name!r} has no states: it holds no recurrent layer of keras_gated."
            )
        self.states, self.layer_of = {}, {}
        for layer in self.layers:
            for state, width in _widths(layer.cell).items():
                name = f"{layer.name}_{state}"
                if name in self.states:
                    raise ValueError(
                        f"Two recurrent layers of {model.name!r} have the same name. Received: "
                        f"{[layer.name for layer in self.layers]}. Give them names of their own."
                    )
                self.states[name] = tf.TensorSpec((None, width), layer.cell.state_dtype)
                self.layer_of[name] = layer.name

    def zeros(self, batch):
        """Returns the states before the first step of `batch` rows, by name."""
        return {
            name: tf.zeros([batch, spec.shape[1]], spec.dtype) for name, spec in self.states.items()
        }

    def weights(self):
        """Returns the layers' weights, read once before a loop of single steps."""
        return {id(layer): plain.weights_of(layer.cell) for layer in self.layers}

    def __call__(self, inputs, states, mask=None, weights=None):
        """Returns the outputs and the new states, by name.

        Raises:
            ValueError: If a recurrent layer is not called once, or with an initial state of its
                own. The message names it.
        """
        given = {
            id(layer): [states[f"{layer.name}_{name}"] for name in layer.cell.state_names]
            for layer in self.layers
        }
        with recording("states", given, weights) as calls, masks_of_inputs():
            outputs = self.model(inputs, training=False, mask=mask)
        check_masked(calls, mask)
        if sorted(id(call.layer) for call in calls) != sorted(given):
            raise ValueError(
                "Every recurrent layer must be called once for its states to be inputs and "
                f"outputs. Received: calls of {[call.layer.name for call in calls]}."
            )
        for call in calls:
            if call.initial_state is not None:
                raise ValueError(
                    f"The states of {call.layer.name!r} cannot be inputs and outputs: it is called "
                    "with an `initial_state`, which every piece would begin with. Received: "
                    f"{call.layer!r}. Build a model of the same weights without it (a decoder "
                    "without its encoder), and give the first piece that state."
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

    Of several inputs with a free number of steps, some may be given as a whole with each piece: a
    decoder looks at all that its encoder read. A model that answers at random, or that refuses
    random ids, is not checked.

    Args:
        stepper: The `Stepper` of a model, of which an input has a free number of steps.
        owner: The function that a user called.

    Returns:
        The places of the inputs that are cut into pieces, as many as possible. The others must be
        given as a whole with each piece.
    """
    model = stepper.model
    timed = [n for n, x in enumerate(model.inputs) if len(x.shape) > 1 and x.shape[1] is None]
    rows = next((x.shape[0] for x in model.inputs if x.shape and x.shape[0]), _ROWS)
    whole = examples_of(model, rows, sum(_PIECES))
    with exporting():  # compiled loops would be compiled for each length
        try:
            expected, again = (
                tree.flatten(model(packed(model, whole), training=False)) for _ in range(2)
            )
        except tf.errors.InvalidArgumentError:
            return timed
        begun, _ = stepper(packed(model, whole), stepper.zeros(rows))
        if difference(expected, again):
            return timed
        if not difference(tree.flatten(begun), expected) <= tolerance(model):
            raise ValueError(
                f"{owner}: {model.name!r} does not begin with states of zeros, and every sequence "
                "in pieces would. Received: a cell with a `get_initial_state` of its own. Leave "
                "that out, and set the states before the first piece."
            )
        differs, reason = [], None
        for number in range(len(timed), 0, -1):
            for cut in itertools.combinations(timed, number):
                try:
                    differs.append(difference(_in_pieces(stepper, whole, cut), expected))
                except (ValueError, tf.errors.OpError) as error:  # unequal steps, or too few
                    differs.append(np.inf)
                    reason = reason or error
                if differs[-1] <= tolerance(model):
                    return list(cut)
    least = min(differs)
    by = f", by {least:.2g} of its largest answer" if np.isfinite(least) else ""
    raise ValueError(
        f"{owner}: {model.name!r} answers a sequence in pieces differently from the whole one{by}: "
        "a layer besides the recurrent ones looks at more than one step (`Conv1D`, pooling, "
        "attention). Leave it out of the model."
    ) from reason


def _in_pieces(stepper, whole, cut):
    """Returns the answers to pieces of a sequence, joined. `cut` are the places of cut inputs."""
    states, start, received = stepper.zeros(len(whole[0])), 0, []
    for steps in _PIECES:
        piece = [
            x[:, start : start + steps] if place in cut else x for place, x in enumerate(whole)
        ]
        answer, states = stepper(packed(stepper.model, piece), states)
        received.append([np.asarray(x) for x in tree.flatten(answer)])
        start += steps
    joined = []
    for parts in zip(*received, strict=True):
        sizes = zip(*(part.shape for part in parts), strict=True)
        of_time = [axis for axis, found in enumerate(sizes) if len(set(found)) > 1]
        joined.append(np.concatenate(parts, axis=of_time[0]) if of_time else parts[-1])
    return joined


def tolerance(model):
    """Returns the largest difference of answers that rounding explains."""
    policies = {layer.compute_dtype for layer in keras_private.parts_of(model)}
    return max(_TOLERANCES.get(policy, 1e-4) for policy in policies)


def examples_of(model, rows, steps):
    """Returns an array for each input, whose values differ from row to row and step to step."""
    draws, found = np.random.default_rng(0), []
    for x in model.inputs:
        shape = example_of(x.shape, x.dtype, steps).shape
        found.append(random_values(model, x, (rows, *shape[1:]) if shape else (), draws))
    return found


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
        return "it is not a layer of keras_gated (`from_keras` converts those of `keras.layers`)"
    if layer.go_backwards:
        return "it reads the sequence from its end, so what comes later comes before its state"
    if layer.stateful:
        return "it keeps them itself; build it with `stateful=False` and load the same weights"
    return None
