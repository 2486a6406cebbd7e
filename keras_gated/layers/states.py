"""The life of a state: set it, carry it from window to window, and train on one long stream.

A `stateful=True` layer carries its final states to the next batch as values, so the gradient stops
at the first step of the window. This is truncated back-propagation through time. The batches must
follow each other row by row (`windows`), and the state must be zero where a stream begins
(`ResetState`):

    data = windows(ids[:-1], ids[1:], batch_size=32, steps=100)
    model.fit(data, epochs=10, shuffle=False, callbacks=[ResetState()])
"""

import keras
import numpy as np
from keras import ops, tree

from keras_gated import keras_private
from keras_gated.cells.arguments import compatible, tensorflow_for


def reset_state(layer: keras.layers.Layer, states=None, rows=None) -> None:
    """Sets the states of a stateful layer, or of all stateful layers of a model.

    Works for the layers of keras_gated, for `keras.layers.RNN` around any cells (stacked cells
    included), and for `Bidirectional`. It may be called inside a `tf.function`, for example in a
    `train_step`. Without `states`, a layer that was not called yet is left as it is: it has no
    state, and will begin with zeros.

    Args:
        layer: A layer or a model.
        states: A dict of lists of arrays, each `(batch, units)`, by the name of the layer, as
            `get_state` returns it. For one layer the list alone is enough. Default: zeros.
        rows: Optional bool, `(batch,)`, the rows to set. Default: all.

    Raises:
        ValueError: If no layer is stateful, or names or shapes do not fit, or `rows` are not bool,
            or `states` are for a layer that was not called yet. No state is changed then.
    """
    own = _stateful_layers(layer, must_exist=states is not None)
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
        try:
            rows = ops.convert_to_tensor(rows)
            dtype = keras.backend.standardize_dtype(rows.dtype)  # numbers might be places of rows
        except (TypeError, ValueError):  # of PyTorch and JAX, for texts
            rows, dtype = np.asarray(rows), type(rows).__name__
        batches = {shape[:1] for layer_shapes in shapes.values() for shape in layer_shapes}
        if (
            dtype != "bool"
            or len(batches) > 1
            or any(not compatible(rows.shape, batch) for batch in batches)
        ):
            raise ValueError(
                f"reset_state: `rows` must be bool, one a row of the batch, of shape "
                f"{sorted(batches)}. Received: rows.shape={tuple(rows.shape)}, "
                f"rows.dtype={dtype}."
            )
    for name, variables in own.items():
        for variable, value in zip(variables, tree.flatten(states[name]), strict=True):
            value = ops.cast(value, variable.dtype)
            variable.assign(
                value if rows is None else ops.where(rows[:, None], value, variable.value)
            )


def get_state(layer: keras.layers.Layer) -> dict[str, list]:
    """Returns the states of a stateful layer or model: a dict of lists of arrays by layer name.

    Raises:
        ValueError: If no layer is stateful, or a stateful layer was not called yet.
    """
    own = _stateful_layers(layer)
    return {name: [ops.convert_to_numpy(v) for v in variables] for name, variables in own.items()}


def _stateful_layers(layer, must_exist=True):
    """Returns the state variables of every stateful layer, by the layer's name.

    A layer without a state yet has no variables; if they `must_exist`, it is an error.
    """
    found = {}
    for part in keras_private.parts_of(layer):
        if getattr(part, "stateful", False) and isinstance(part, keras.layers.RNN):
            if part.states is None and must_exist:
                raise ValueError(f"The layer {part.name!r} has no state yet: call it once.")
            if part.name in found:
                raise ValueError(
                    f"Two stateful layers are called {part.name!r}: give them names of their own."
                )
            found[part.name] = [] if part.states is None else tree.flatten(part.states)
    if not found:
        raise ValueError(
            f"{layer.name!r} has no stateful layer. Build its recurrent layers with "
            "`stateful=True`."
        )
    return found


class ResetState(keras.callbacks.Callback):
    """Sets the states of a model to zero at the start of every epoch.

    Validation and evaluation start from zero states, too. After them the states of the training
    are restored. The model needs a stateful layer. A state that does not exist yet is zero.
    """

    def on_epoch_begin(self, epoch, logs=None):
        reset_state(self.model)

    def on_test_begin(self, logs=None):
        new = [] in _stateful_layers(self.model, must_exist=False).values()
        self._before = None if new else get_state(self.model)  # None: zeros
        reset_state(self.model)

    def on_test_end(self, logs=None):
        reset_state(self.model, self._before)


def windows(inputs, targets, *, batch_size: int, steps: int) -> "tf.data.Dataset":  # noqa: F821
    """Cuts one long stream into batches that follow each other row by row.

    The stream is cut into `batch_size` strips of the same length. Every batch holds the next
    `steps` steps of each strip. So with `stateful=True` a row goes on where it stopped.

    Args:
        inputs: `(length, ...)`, an array of ids or vectors.
        targets: `(length, ...)`, aligned with `inputs`. To predict the next token, the targets are
            the stream shifted by one step.
        batch_size: Number of strips. The remainder of the division, fewer than `batch_size` steps
            at the end of the stream, is left out.
        steps: Number of steps in a window. The last window may be shorter.

    Returns:
        A `tf.data.Dataset` of `(inputs, targets)`, each `(batch_size, steps, ...)`.

    Raises:
        ValueError: If lengths differ, a size is no positive integer, or a strip is shorter than one
            window.
        ImportError: If TensorFlow is not installed.
    """
    tf = tensorflow_for("windows")  # tf.data feeds every backend of Keras

    inputs, targets = np.asarray(inputs), np.asarray(targets)
    sizes = [np.asarray(size) for size in (batch_size, steps)]
    lengths = [len(stream) if stream.ndim else "no" for stream in (inputs, targets)]
    if (
        "no" in lengths
        or len(set(lengths)) > 1
        or any(size.ndim or size.dtype.kind not in "iu" or size < 1 for size in sizes)
    ):
        raise ValueError(
            "windows: `inputs` and `targets` must be equally long, and `batch_size` and `steps` "
            f"integers of at least 1. Received: {lengths[0]} and {lengths[1]} steps, "
            f"batch_size={batch_size!r}, steps={steps!r}."
        )
    batch_size, steps = map(int, sizes)  # NumPy's small integers do not hold their product
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
