"""Always-on inference in Python: a model reads what comes, and keeps its states in between."""

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_gated import keras_private
from keras_gated.serve.signatures import example_of, packed
from keras_gated.serve.streaming import Stepper

_PIECES = (1, 2, 3)  # steps, of the sequence that a model must answer as it does to the whole
_ROWS = 16  # that a model of any batch size is checked with, so that no luck hides a difference
_TOLERANCE = 1e-4  # of the largest answer, and at least of 1


def stream(model: keras.Model) -> "Stream":
    """Returns a `Stream`: one sequence after the other, read piece by piece as it comes.

        stream = keras_gated.stream(model)
        for window in sensor:  # (1, steps, features), one step or more
            answer = stream.step(window)
        stream.flush()

    What the pieces give, one after the other, is what the whole sequence gives. In other runtimes
    `export_model(..., states=True)` and `to_litert(..., states=True)` do the same, with the states
    as inputs and outputs.

    Args:
        model: A functional or sequential model with a free number of steps, whose recurrent layers
            are of keras_gated (`from_keras` converts others), read forwards and are called once.

    Raises:
        ValueError: If a recurrent layer has no state that could be carried on, or pieces give
            something else than the whole sequence, as a layer besides the recurrent ones looks at
            more than one step.
    """
    return Stream(model)


class Stream:
    """See `stream`. Rows are independent sequences; their number is that of the first step.

    Attributes:
        states: The states after the last step, name to array, `(batch, width)`, by the names of
            `export_model`; None before the first one. They may be set, to go on from there.
    """

    def __init__(self, model):
        functional = getattr(model, "_functional", model)
        if not isinstance(functional, keras_private.Functional):
            raise ValueError(
                "stream: `model` must be a functional model, or a sequential one that knows its "
                f"input. Received: {model!r}."
            )
        self._model, self._stepper, self._last = model, Stepper(model), None
        timed = [len(x.shape) > 1 and x.shape[1] is None for x in functional.inputs]
        if not any(timed):
            raise ValueError(
                "stream: an input must have an unknown number of steps, (batch, None, ...). "
                f"Received: {[(x.name, x.shape) for x in functional.inputs]}."
            )
        self._call = tf.function(self._stepper, autograph=False, reduce_retracing=True)
        self._shapes = [tuple(x.shape) for x in functional.inputs]
        self.states = None
        self._check(functional.inputs, timed)

    def step(self, inputs):
        """Returns what the model answers to the next steps, as arrays.

        Args:
            inputs: As the model is called with: a window of one step or more, `(batch, steps,
                ...)`. Masked steps (of a `Masking` layer, for example) change no state; a piece
                that begins with some answers them with zeros, as a sequence does.

        Raises:
            ValueError: If there are other rows than before, or inputs lack the axis of steps.
        """
        inputs = tree.map_structure(tf.convert_to_tensor, inputs)
        received = [tuple(x.shape) for x in tree.flatten(inputs)]
        if [len(shape) for shape in received] != [len(shape) for shape in self._shapes]:
            raise ValueError(
                f"stream: a step must be a window of steps, of the shapes {self._shapes}. "
                f"Received: shapes {received}. One step has the length 1 on the axis of steps."
            )
        rows = tree.flatten(inputs)[0].shape[0]
        states = self._stepper.zeros(rows) if self.states is None else self.states
        kept = len(next(iter(states.values())))
        if rows != kept:
            raise ValueError(
                f"stream: each step must be of as many rows as the states, {kept}. Received: "
                f"{rows} rows. `reset()` begins anew, with any number."
            )
        answers, states = self._call(inputs, tree.map_structure(tf.convert_to_tensor, states))
        self.states = tree.map_structure(np.asarray, states)
        self._last = tree.map_structure(np.asarray, answers)
        return self._last

    def flush(self):
        """Ends the sequence: the next step begins another.

        Returns:
            The answer to the last step, or None if there was none: nothing is held back, as every
            step is answered when it is read.
        """
        last = self._last
        self.reset()
        return last

    def reset(self, rows=None):
        """Forgets what was read.

        Args:
            rows: Optional bool, `(batch,)`: the rows that begin anew. Default: all.

        Raises:
            ValueError: If `rows` are not as many as the states'.
        """
        if rows is None:
            self.states = self._last = None
        elif self.states is not None:
            rows, kept = np.asarray(rows, bool), len(next(iter(self.states.values())))
            if rows.shape != (kept,):
                raise ValueError(
                    f"stream: `rows` must be bool, one a row of the batch, ({kept},). Received: "
                    f"rows.shape={rows.shape}."
                )
            self.states = {n: np.where(rows[:, None], 0, s) for n, s in self.states.items()}

    def _examples(self, inputs):
        """Returns rows that differ from step to step: numbers around 0, and ids of no padding."""
        draws, examples = np.random.default_rng(0), []
        embeddings = (
            layer.input_dim
            for layer in keras_private.parts_of(self._model)
            if isinstance(layer, keras.layers.Embedding)
        )
        ids = max(2, min(embeddings, default=2))
        for x in inputs:
            one = example_of(x.shape, x.dtype, sum(_PIECES))
            shape = (x.shape[0] or _ROWS, *one.shape[1:])
            if np.issubdtype(one.dtype, np.floating):
                one = draws.normal(size=shape).astype(one.dtype)
            elif np.issubdtype(one.dtype, np.integer):
                one = draws.integers(1, ids, size=shape).astype(one.dtype)
            examples.append(np.broadcast_to(one, shape))
        return examples

    def _check(self, inputs, timed):
        """Raises unless a sequence in pieces is answered as the whole one."""
        whole = self._examples(inputs)
        expected = self._model(packed(self._model, whole), training=False)
        start, received = 0, []
        for steps in _PIECES:
            piece = [
                x[:, start : start + steps] if t else x for x, t in zip(whole, timed, strict=True)
            ]
            received.append(tree.flatten(self.step(packed(self._model, piece))))
            start += steps
        self.reset()
        for parts, answer in zip(zip(*received, strict=True), tree.flatten(expected), strict=True):
            answer = np.asarray(answer)
            last = parts[-1].shape == answer.shape
            joined = parts[-1] if last else np.concatenate(parts, axis=1)
            scale = max(1, np.max(np.abs(answer), initial=0))
            if joined.shape != answer.shape or np.max(np.abs(joined - answer)) > _TOLERANCE * scale:
                raise ValueError(
                    f"stream: {self._model.name!r} answers a sequence in pieces differently from "
                    "the whole one: a layer besides the recurrent ones looks at more than one step "
                    "(`Conv1D`, pooling, attention). Stream the model without it."
                )
