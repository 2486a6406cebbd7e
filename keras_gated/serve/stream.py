"""Always-on inference in Python: a model reads what comes, and keeps its states in between."""

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_gated import keras_private
from keras_gated.cells.arguments import check_backend, compatible
from keras_gated.serve.inputs import packed
from keras_gated.serve.streaming import Stepper, check_pieces


def stream(model: keras.Model) -> "Stream":
    """Returns a `Stream`: one sequence after the other, read piece by piece as it comes.

        stream = keras_gated.stream(model)
        for window in sensor:  # (1, steps, features), one step or more
            answer = stream.step(window)
        stream.flush()

    What the pieces give, one after the other, is what the whole sequence gives. In other runtimes
    `export_model`, `to_onnx` and `to_litert` do the same with `states=True`: the states are then
    inputs and outputs.

    Args:
        model: A functional or sequential model with a free number of steps, whose recurrent layers
            are of keras_gated (`from_keras` converts others), read forwards and are called once.

    Raises:
        ValueError: If Keras runs on another backend than TensorFlow, if a recurrent layer has no
            state that could be carried on (it is called with an `initial_state`, for example), or
            if pieces give something else than the whole sequence, as a layer besides the recurrent
            ones looks at more than one step.
    """
    return Stream(model)


class Stream:
    """See `stream`. Rows are independent sequences; their number is that of the first step.

    Attributes:
        states: The states after the last step, name to array, `(batch, width)`, by the names of
            `export_model`; None before the first one. They may be set, to go on from there. A
            ValueError says which states are missing or do not fit.
    """

    def __init__(self, model):
        check_backend("stream")
        functional = getattr(model, "_functional", model)
        if not isinstance(functional, keras_private.Functional):
            raise ValueError(
                "stream: `model` must be a functional model, or a sequential one that knows its "
                f"input. Received: {model!r}."
            )
        self._stepper = Stepper(model)
        timed = [len(x.shape) > 1 and x.shape[1] is None for x in functional.inputs]
        if not any(timed):
            raise ValueError(
                "stream: an input must have an unknown number of steps, (batch, None, ...). "
                f"Received: {[(x.name, x.shape) for x in functional.inputs]}."
            )
        self._call = tf.function(self._stepper, autograph=False, reduce_retracing=True)
        self._shapes = [tuple(x.shape) for x in functional.inputs]
        self._names = [x.name for x in functional.inputs]
        cut = check_pieces(self._stepper, "stream")
        self._whole = {
            n: x.name for n, x in enumerate(functional.inputs) if timed[n] and n not in cut
        }
        self.reset()

    @property
    def states(self):
        return self._states

    @states.setter
    def states(self, states):
        if states is not None:
            specs = self._stepper.states
            widths = {name: spec.shape[1] for name, spec in specs.items()}
            shapes = {n: np.shape(s) for n, s in states.items()} if isinstance(states, dict) else {}
            rows = next((shape[:1] for shape in shapes.values()), ())
            if not rows or shapes != {name: (*rows, width) for name, width in widths.items()}:
                raise ValueError(
                    "stream: `states` must be None, or a dict of arrays (batch, width) of the same "
                    f"batch, by name, of the widths {widths}. Received: {shapes or states!r}."
                )
            states = {n: np.asarray(states[n], s.dtype.as_numpy_dtype) for n, s in specs.items()}
        self._states, self._last, self._given = states, None, None

    def step(self, inputs):
        """Returns what the model answers to the next steps, as arrays.

        Args:
            inputs: As the model is called with: a window of one step or more, `(batch, steps,
                ...)`. Masked steps (of a `Masking` layer, for example) change no state. A recurrent
                layer's output there is the output of the step before in the same piece, or zeros if
                there is none: at masked steps with which a piece begins, and so in a piece in which
                all steps are masked. (In a whole sequence, only its first steps have none.) A piece
                without steps is answered as one of masked steps. An input that the model looks at
                as a whole (what a decoder attends to) is given whole with each piece.

        Raises:
            ValueError: If there are other rows than before, inputs are not of the model's shapes
                (they lack the axis of steps, for example) or not of as many rows each, or an input
                that must be given whole differs from that of the step before.
        """
        # Keras takes the inputs by name, too, but not those of a model that is called with a dict.
        by_name = isinstance(inputs, dict) and not isinstance(self._stepper.model.input, dict)
        if by_name and {*inputs} == {*self._names}:
            inputs = packed(self._stepper.model, [inputs[name] for name in self._names])
        inputs = tree.map_structure(tf.convert_to_tensor, inputs)
        received = [tuple(x.shape) for x in tree.flatten(inputs)]
        fit = len(received) == len(self._shapes) and all(map(compatible, received, self._shapes))
        free = (own[:1] for own, x in zip(received, self._shapes, strict=False) if x[:1] == (None,))
        if not fit or len(set(free)) > 1:
            raise ValueError(
                f"stream: a step must be a window of steps, of the shapes {self._shapes}, of as "
                f"many rows in each. Received: shapes {received}. One step has the length 1 on the "
                "axis of steps."
            )
        rows = tree.flatten(inputs)[0].shape[0]
        states = self._stepper.zeros(rows) if self.states is None else self.states
        kept = len(next(iter(states.values())))
        if rows != kept:
            raise ValueError(
                f"stream: each step must be of as many rows as the states, {kept}. Received: "
                f"{rows} rows. `reset()` begins anew, with any number."
            )
        given = {name: tree.flatten(inputs)[n].numpy() for n, name in self._whole.items()}
        for name, before in (self._given or {}).items():
            if not np.array_equal(before, given[name]):
                raise ValueError(
                    f"stream: {name!r} must be given whole with each piece, the same every time: "
                    "the model looks at all its steps. Received: shape "
                    f"{given[name].shape} after {before.shape}"
                    f"{', with other values' if given[name].shape == before.shape else ''}. "
                    "`reset()` begins another sequence."
                )
        answers, states = self._call(inputs, tree.map_structure(tf.convert_to_tensor, states))
        self._states, self._given = tree.map_structure(np.asarray, states), given
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
            ValueError: If `rows` are not bool, or not as many as the states'.
        """
        if rows is None:
            self.states = None
            return
        rows = np.asarray(rows)
        shape = rows.shape if self.states is None else (len(next(iter(self.states.values()))),)
        if rows.dtype != bool or rows.shape != shape:
            raise ValueError(
                f"stream: `rows` must be bool, one a row of the batch, {shape}. Received: "
                f"rows.shape={rows.shape}, rows.dtype={rows.dtype}."
            )
        if self.states is not None:
            self._states = {n: np.where(rows[:, None], 0, s) for n, s in self.states.items()}
            self._given = None
