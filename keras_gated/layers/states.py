"""The life of a state: set it, carry it from window to window, and train on one long stream.

Truncated back-propagation through time, with what Keras has: a `stateful=True` layer carries its
final states to the next batch as values, so the gradient stops at the window's first step. The
batches must follow each other row by row (`windows`), and the state must be zero where a stream
begins (`ResetState`):

    data = windows(ids[:-1], ids[1:], batch_size=32, steps=100)
    model.fit(data, epochs=10, shuffle=False, callbacks=[ResetState()])
"""

import keras
import numpy as np
from keras import ops, tree

from keras_gated import keras_private
from keras_gated.cells.arguments import compatible


def reset_state(layer: keras.layers.Layer, states=None, rows=None) -> None:
    """Sets the states of a stateful layer, or of all stateful layers of a model.

    Works for our layers, for `keras.layers.RNN` around any cells, stacked ones included, and for
    `Bidirectional`. May be called inside a `tf.function` (in a `train_step`, for example).

    Args:
        layer: A layer or a model.
        states: What `get_state` returns: for every layer its name and a list of arrays, each
            `(batch, units)`; a list will do for one layer. Default: zeros.
        rows: Optional bool, `(batch,)`: the rows to set. Default: all.

    Raises:
        ValueError: If there is no stateful layer, or names or shapes do not fit. Then no state
            has been changed.
    """
    own = _stateful_layers(layer)
    if states is None:
        states = {name: [ops.zeros(v.shape) for v in vs] for name, vs in own.items()}
    elif not isinstance(states, dict) and len(own) == 1:
        states = {next(iter(own)): states}
    shapes = {name: [tuple(v.shape) for v in variables] for name, variables in own.items()}
    received = {
        name: [tuple(np.shape(s)) for s in tree.flatten(values)]
        for name, values in (states if isinstance(states, dict) else {}).items()
    }
    if received != shapes:
        raise ValueError(
            f"reset_state: `states` must hold the states of every stateful layer of "
            f"{layer.name!r} by name, {shapes}. Received: {received or states}. "
            "`get_state` returns them in this form."
        )
    if rows is not None:
        rows = ops.cast(rows, "bool")
        batches = {shape[:1] for layer_shapes in shapes.values() for shape in layer_shapes}
        if len(batches) > 1 or not compatible(rows.shape, *batches):
            raise ValueError(
                f"reset_state: `rows` must be bool, one a row of the batch, of shape "
                f"{sorted(batches)}. Received: rows.shape={tuple(rows.shape)}."
            )
    for name, variables in own.items():
        for variable, value in zip(variables, tree.flatten(states[name]), strict=True):
            value = ops.cast(value, variable.dtype)
            variable.assign(
                value if rows is None else ops.where(rows[:, None], value, variable.value)
            )


def get_state(layer: keras.layers.Layer) -> dict[str, list]:
    """Returns the states of a stateful layer or model: name to a list of arrays.

    Raises:
        ValueError: If there is no stateful layer.
    """
    own = _stateful_layers(layer)
    return {name: [ops.convert_to_numpy(v) for v in variables] for name, variables in own.items()}


def _stateful_layers(layer):
    """Returns the state variables of every stateful layer, by the layer's name."""
    found = {}
    for part in keras_private.parts_of(layer):
        if getattr(part, "stateful", False) and isinstance(part, keras.layers.RNN):
            if part.states is None:
                raise ValueError(f"The layer {part.name!r} has no state yet: call it once.")
            if part.name in found:
                raise ValueError(
                    f"Two stateful layers are called {part.name!r}: give them names of their own."
                )
            found[part.name] = tree.flatten(part.states)
    if not found:
        raise ValueError(
            f"{layer.name!r} has no stateful layer. Build its recurrent layers with "
            "`stateful=True`."
        )
    return found


class ResetState(keras.callbacks.Callback):
    """Begins every epoch with zero states, and keeps validation from disturbing the training's.

    Validation and evaluation begin with zero states, too; afterwards the states are those of
    before. Needs a model with a stateful layer.
    """

    def on_epoch_begin(self, epoch, logs=None):
        reset_state(self.model)

    def on_test_begin(self, logs=None):
        self._before = get_state(self.model)
        reset_state(self.model)

    def on_test_end(self, logs=None):
        reset_state(self.model, self._before)


def windows(inputs, targets, *, batch_size: int, steps: int) -> "tf.data.Dataset":  # noqa: F821
    """Cuts one long stream into batches that follow each other row by row.

    The stream becomes `batch_size` strips of the same length, side by side; every batch holds the
    next `steps` steps of each strip. So with `stateful=True` a row goes on where it stopped.

    Args:
        inputs: `(length, ...)`, an array of ids or vectors.
        targets: `(length, ...)`, aligned with `inputs`; for a model of the next token that is the
            stream one later.
        batch_size: Number of strips. The rest of the division, fewer than `batch_size` steps at
            the end of the stream, is left out.
        steps: Steps in a window; the last window may be shorter.

    Returns:
        A `tf.data.Dataset` of `(inputs, targets)`, each `(batch_size, steps, ...)`.

    Raises:
        ValueError: If lengths differ, or a strip is shorter than one window.
    """
    import tensorflow as tf  # tf.data feeds every backend of Keras

    inputs, targets = np.asarray(inputs), np.asarray(targets)
    if batch_size < 1 or steps < 1 or len(inputs) != len(targets):
        raise ValueError(
            "windows: `inputs` and `targets` must be equally long, and `batch_size` and `steps` at "
            f"least 1. Received: {len(inputs)} and {len(targets)} steps, batch_size={batch_size}, "
            f"steps={steps}."
        )
    length = len(inputs) // batch_size
    if length < steps:
        raise ValueError(
            "windows: the stream must fill at least one window, which takes batch_size * steps = "
            f"{batch_size * steps} steps. Received: a stream of {len(inputs)} steps, "
            f"batch_size={batch_size}, steps={steps}. Pass a longer stream, a smaller `batch_size` "
            "or a smaller `steps`."
        )

    def strips(stream):
        stream = stream[: length * batch_size]
        return np.swapaxes(stream.reshape(batch_size, length, *stream.shape[1:]), 0, 1)

    def batch_first(*window):
        return tuple(tf.experimental.numpy.swapaxes(a, 0, 1) for a in window)

    data = tf.data.Dataset.from_tensor_slices((strips(inputs), strips(targets)))
    data = data.batch(steps).map(batch_first)
    shapes = [(batch_size, None, *a.shape[1:]) for a in (inputs, targets)]
    return data.map(lambda *w: tuple(tf.ensure_shape(a, s) for a, s in zip(w, shapes, strict=True)))
