"""The layer around a cell: a sequence, with its states, masks and directions.

The cell has the equations of a step. The layer decides which path runs them over a sequence.
"""

import inspect
import re

import keras
from keras import ops

from keras_gated import keras_private
from keras_gated.cells.arguments import (
    Configurable,
    boolean,
    check_axes,
    compatible,
    number_of_rows,
    section,
)
from keras_gated.cells.base import GatedCell
from keras_gated.cells.dropout import Masks, dropped
from keras_gated.cells.equations import equations_of
from keras_gated.cells.trial import check_step
from keras_gated.layers.config import FUSED, fused_default, is_compiled, path_chosen
from keras_gated.layers.states import reset_state
from keras_gated.paths import keras_loop, recorder
from keras_gated.paths.path import Call, own_call, steps_are_known

_CALL = """
    Call arguments:
        sequences: float, `(batch, time, features)`; batch and time may be unknown. Ragged
            sequences have their padding masked. Sparse sequences are made dense.
        initial_state: Optional list of the states before the first step, each `(batch, width)`.
            A state of one row, `(1, width)`, is used for every row: a learned initial state, for
            example. Default: zeros, or with `stateful=True` the states after the last call.
        mask: Optional bool, `(batch, time)`. A step where it is False changes no state and
            repeats the output of the step before it. The output is zero if no valid step came
            before, or at every masked step with `zero_output_for_mask=True`. Default: the mask
            that Keras attached to `sequences`. An `initial_state` does not change that
            (`keras.layers` ignores the mask then).
        training: Whether dropout is applied.

    Returns:
        The last output, `(batch, units)`, or all outputs, `(batch, time, units)`, with
        `return_sequences=True`. With `return_state=True`, the final states follow, each
        `(batch, units)`. With `return_gates=True`, a dict of every gate and state of every step
        follows, each `(batch, time, units)`, by name: see `trace_gates`.

    Raises:
        ValueError: For an argument that is not accepted; the message names it.
"""

_SEQUENCE = """return_sequences: Whether to return the output of every step.
        return_state: Whether to return the final states, too.
        go_backwards: Whether to read the sequence from its end. The outputs of all steps are then
            in the order of computation, the last step first. The mask that the next layer gets has
            the same order.
        stateful: Whether the final states are the initial states of the next call. Needs a fixed
            batch size. `reset_state()` sets the states to zero.
        unroll: Whether to write the loop out as one graph: faster for a few steps, but larger.
            Needs a fixed number of steps.
        zero_output_for_mask: Whether the output of a masked step is zero.
        activity_regularizer: Regularizer of the output.
        use_cudnn: "auto" runs LSTM and GRU on cuDNN on a GPU, wherever `fused` would be valid
            (and in float16). True raises an error with the reason where cuDNN cannot run. False
            never runs it.
        return_gates: Whether to return every gate and state of every step, too.
        fused: "auto" runs the fused path (one input product for all steps, back-propagation
            through time by hand) wherever it is valid, and the cell's loop elsewhere. True raises
            an error with the reason where it is not valid. False never runs it. "compiled" is
            like True, and also compiles the loop inside a `tf.function` of yours. Such a function
            can be exported by `export_model` only. `keras_gated.set_fused` is the switch for all
            layers.
        name, dtype, trainable: As for any Keras layer."""
_USE_CUDNN = re.compile(r"        use_cudnn: .*?(?=        return_gates:)", re.DOTALL)


def document(cls, cell_class=None):
    """Fills a docstring with the arguments of a cell, the arguments of a sequence and the call."""
    text = cls.__doc__ or ""
    if "{sequence}" in text:
        sequence = _USE_CUDNN.sub("", _SEQUENCE) if "use_cudnn" in cls.without else _SEQUENCE
        text = inspect.cleandoc(text.replace("{sequence}", sequence) + _CALL)
        cls.__doc__ = text.replace("{cell}", section(cell_class.__doc__, "Args"))


@keras.saving.register_keras_serializable(package="keras_gated")
class RNN(Configurable, keras.layers.RNN):
    """A recurrent layer around a cell of this package or a cell of yours: see `GatedCell`.

    Args:
        cell: A `GatedCell`. (`keras.layers.RNN` takes any other cell, and lists of them.)
        {sequence}
    """

    def __init__(
        self,
        cell: GatedCell,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        use_cudnn: bool | str = "auto",
        return_gates: bool = False,
        fused: bool | str = "auto",
        **kwargs,
    ):
        owner = type(self).__name__
        if not isinstance(cell, GatedCell):
            raise ValueError(
                f"{owner}: `cell` must be a keras_gated.GatedCell. Received: cell={cell!r}. "
                "`keras.layers.RNN` runs any other cell, and a list of cells."
            )
        switches = {
            "return_sequences": return_sequences,
            "return_state": return_state,
            "go_backwards": go_backwards,
            "stateful": stateful,
            "unroll": unroll,
            "zero_output_for_mask": zero_output_for_mask,
        }
        switches = {name: boolean(owner, name, value) for name, value in switches.items()}
        self.return_gates = boolean(owner, "return_gates", return_gates)
        if self.return_gates and not steps_are_known(cell):
            raise ValueError(
                f"{owner}: `return_gates=True` cannot be kept, because {type(cell).__name__} has a "
                f"`call` of its own, whose gates are not known. Received: cell={cell!r}. Override "
                "`step` or `whole_step`."
            )
        self.fused = boolean(owner, "fused", fused, FUSED)
        if "use_cudnn" not in self.without:
            self.use_cudnn = boolean(owner, "use_cudnn", use_cudnn, ["auto"])
        super().__init__(cell, **switches, **kwargs)
        self.supports_masking = True
        # TensorFlow's fused path compiles its loops itself, once for all lengths. On JAX
        # Keras compiles the whole model, or nothing is compiled.
        self.supports_jit = self.fused is False or keras.backend.backend() == "jax"

    def build(self, sequences_shape=None, initial_state_shape=None):
        self._check_number(sequences_shape, (list, tuple))
        check_axes(type(self).__name__, ("batch", "time", "features"), sequences_shape)
        super().build(sequences_shape, initial_state_shape)
        if not own_call(self.cell):
            check_step(self.cell, equations_of(self.cell))

    def call(self, sequences, initial_state=None, mask=None, training: bool = False):
        self._check_number(sequences)
        if hasattr(sequences, "row_lengths"):  # ragged: made dense below, with a mask
            mask = _mask_of_ragged(sequences) if mask is None else mask
        sequences = ops.convert_to_tensor(sequences, sparse=False, ragged=False)
        if mask is None:
            mask = keras_private.mask_of(sequences)  # Keras does not pass it with `initial_state`
        if mask is not None:
            mask = ops.cast(_dense(mask), "bool")
        self._check_call(sequences, initial_state, mask)
        mask = _one_for_each_row(_mask_of_steps(mask), sequences)
        if self.stateful and sequences.shape[0] is None:
            sequences = self._with_batch_checked(sequences)
        sequences = ops.cast(sequences, self.compute_dtype)
        sequences, mask, states = self._with_states(sequences, mask, initial_state)
        call = self._asked(sequences, states, mask, training)
        output, steps, finals = self._path_of(call).run(call)
        if self.stateful and not recorder.is_recording():
            for variable, state in zip(self.states, finals, strict=True):
                variable.assign(state)
        gates = dict(zip(call.fields, steps, strict=True))
        if self.return_sequences:
            output = gates["hidden"]
            if self.go_backwards and not call.outputs_reversed:
                output = ops.flip(output, axis=1)
        results = [output, *(finals if self.return_state else ())]
        results = [ops.cast(result, self.compute_dtype) for result in results]
        if recorder.is_recording():
            recorder.record(
                self, sequences, states, mask, gates, tuple(results), finals, initial_state
            )
        if self.return_gates:
            results.append(gates)
        return tuple(results) if len(results) > 1 else results[0]

    def _asked(self, sequences, states, mask, training):
        """Returns the `Call` for a path, with dropout masks drawn once for all steps."""
        masks = Masks()
        if training and not own_call(self.cell):  # a cell's own `call` draws its masks
            batch, time = ops.shape(sequences)[:2]
            masks = self.cell.draw_masks(batch, sequences.shape[-1], time)
            if masks.inputs is not None:
                sequences = dropped(sequences, masks.inputs[:, None])
                masks = masks._replace(inputs=None)
        known, recorded = steps_are_known(self.cell), recorder.is_recording("gates")
        looked_at = self.return_gates or (known and recorded)
        fields = ("hidden",) if self.return_sequences else ()
        fields = self.cell.fields() if looked_at else fields
        # Outputs are in the order of computation, gates in the order of the inputs.
        reversed_ = self.go_backwards and not looked_at
        return Call(
            layer=self,
            sequences=sequences,
            states=states,
            mask=mask,
            training=bool(training),
            masks=masks,
            fields=fields,
            outputs_reversed=reversed_,
            weights=recorder.weights_given(self),
            compiled=is_compiled(self.fused),
        )

    def _path_of(self, call):
        """Returns the first path that can run a call: cuDNN, the fused one, or the cell's own loop.

        Raises:
            ValueError: If an argument asks for a path that cannot run the call.
        """
        if chosen := path_chosen(call):
            return chosen
        paths, backend = _paths(), keras.backend.backend()
        for argument in ("use_cudnn", "fused"):
            wanted, path = getattr(self, argument, "auto"), paths.get(argument)
            reason = self._switched_off(wanted)
            if not reason:
                reason = path.why_not(call) if path else f"Keras runs on {backend}"
            if wanted is not False and not reason:
                return path
            if wanted in (True, "compiled") and not recorder.is_recording():
                raise ValueError(
                    f"{type(self).__name__}: `{argument}={wanted}` cannot be kept, because "
                    f"{reason}. Use {argument}='auto', which then runs another loop of the same "
                    "equations."
                )
        return keras_loop

    def _switched_off(self, wanted):
        if self.fused is False:
            return "of `fused=False`"
        return None if fused_default() or wanted != "auto" else "of `set_fused(False)`"

    def compute_output_spec(self, sequences, initial_state=None, mask=None, training=False):
        # Keras infers shapes without `call`: without a check, a functional model would fail late.
        self._check_number(sequences)
        self._check_call(sequences, initial_state, mask)
        spec = super().compute_output_spec(
            sequences, initial_state=initial_state, mask=mask, training=training
        )
        if not self.return_gates:
            return spec
        gates = {
            name: keras.KerasTensor(
                (*sequences.shape[:2], self.cell.width_of(name)), self.cell.state_dtype
            )
            for name in self.cell.fields()
        }
        return (*spec, gates) if self.return_state else (spec, gates)

    def _with_states(self, sequences, mask, initial_state):
        """Returns sequences, mask and the states before the first step, which fit together."""
        if initial_state is None:
            initial_state = recorder.states_given(self) or (self.states if self.stateful else None)
        states = () if initial_state is None else self.cell.tensors(*_listed(initial_state))
        states = [_one_for_each_row(state, sequences) for state in states]
        if keras.backend.backend() == "tensorflow":
            # Other backends have no sizes that are unknown until a run.
            from keras_gated.paths.sizes import with_sizes_checked

            sequences, mask, states = with_sizes_checked(
                type(self).__name__, sequences, mask, states, self.cell.input_width()
            )
        return sequences, mask, states or self.get_initial_state(ops.shape(sequences)[0])

    def _check_number(self, inputs, kinds=object):
        """Raises unless a layer is called with one input, or built with one shape."""
        if inputs is None or isinstance(inputs, dict):
            received = "None" if inputs is None else f"a dict of {list(inputs)}"
            raise ValueError(
                f"{type(self).__name__}: the input must be one tensor of sequences, (batch, time, "
                f"features). Received: {received}. A layer of your own before it must return a "
                "tensor; of a dict, pass one entry; `build` takes a shape."
            )
        if isinstance(inputs, (list, tuple)) and any(isinstance(one, kinds) for one in inputs):
            owner = type(self).__name__
            raise ValueError(
                f"{owner}: the input is one tensor of sequences, and states before the first step "
                f"are an argument: {owner}(...)(sequences, initial_state=[...]). Received: a list "
                f"of {len(inputs)} input(s), as in Keras 2."
            )

    def _check_call(self, sequences, initial_state, mask):
        owner, shape = type(self).__name__, tuple(sequences.shape)
        states = None if initial_state is None else _listed(initial_state)
        self.cell.check(owner, ("batch", "time", "features"), sequences, states)
        if mask is not None:
            received = tuple(mask.shape)
            steps = received[:2] if received[2:] == (1,) else received
            if not (compatible(steps, shape[:2]) or compatible(steps, (1, shape[1]))):
                raise ValueError(
                    f"{owner}: `mask` must be of shape (batch, time), True where a step counts. "
                    f"Received: mask.shape={received} with sequences.shape={shape}."
                )
        if self.unroll and shape[1] is None:
            raise ValueError(
                f"{owner}: `unroll=True` needs a fixed number of steps. Received: sequences.shape="
                f"{shape}. Give the time axis of `keras.Input` a number, or use `unroll=False`."
            )
        expected = self._expected_batch_size
        if self.stateful and None not in (shape[0], expected) and shape[0] != expected:
            raise ValueError(self._other_batch_size(shape[0]))

    def compute_mask(self, sequences, previous_mask=None):
        # Not inherited, since Keras 3.16 changes `compute_mask`.
        mask = previous_mask
        if isinstance(mask, (list, tuple)) and (mask[0] is None or hasattr(mask[0], "shape")):
            [mask, *_] = mask  # masks of several inputs
        if mask is None and hasattr(sequences, "row_lengths"):
            mask = _mask_of_ragged(sequences)
        if isinstance(mask, (list, tuple)):  # a list of rows
            mask = ops.convert_to_tensor(mask)
        mask = _mask_of_steps(_dense(mask))
        masks = [outputs_mask(self, mask)]
        if self.return_state:
            masks += [None for _ in self.cell.state_names]
        if self.return_gates:
            masks.append({name: mask for name in self.cell.fields()})
        return tuple(masks) if len(masks) > 1 else masks[0]

    def get_initial_state(self, batch_size=None, dtype=None, inputs=None):
        """As the cell's: zeros for every state, a list of `(batch_size, units)`."""
        states = super().get_initial_state(number_of_rows(batch_size, inputs))
        return [ops.cast(state, dtype) for state in states] if dtype else states

    def reset_states(self, states=None):
        """The name of `reset_state` in Keras 2."""
        self.reset_state(states)

    def reset_state(self, states=None, rows=None):
        """Sets the states of a stateful layer. Default: to zero.

        Args:
            states: Optional list of new states, each `(batch, units)`. Default: zeros.
            rows: Optional bool, `(batch,)`: the rows to set, for example those where a new
                document begins. Default: all. May be a tensor inside a `tf.function`.

        Raises:
            ValueError: If the layer is not stateful, was never called, shapes do not fit, or `rows`
                are not bool.
        """
        if states is None and rows is None and self.states is None:
            return  # as keras.layers: there is nothing to reset yet
        reset_state(self, states, rows)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for name, state in zip(self.cell.state_names, self.states or (), strict=False):
            store[f"state_{name}"] = ops.convert_to_numpy(state)

    def load_own_variables(self, store):
        """Loads the states of a stateful layer, if they are of this layer's batch size.

        Weights fit any batch size, a state fits only one. A state that does not fit is not loaded.
        """
        for name, state in zip(self.cell.state_names, self.states or (), strict=False):
            if f"state_{name}" in store and store[f"state_{name}"].shape == tuple(state.shape):
                state.assign(store[f"state_{name}"])

    def _with_batch_checked(self, sequences):
        import tensorflow as tf  # only TensorFlow has batches of unknown size

        rows = tf.shape(sequences)[0]
        before, after = self._other_batch_size("|").split("|")
        check = tf.debugging.Assert(rows == self._expected_batch_size, [before, rows, after])
        # A slice: the graph's optimizer moves operations that do not change a tensor (also
        # `ensure_shape`) past the check. The error would then come from a later operation.
        with tf.control_dependencies([check]):
            return tf.slice(sequences, [0, 0, 0], [self._expected_batch_size, -1, -1])

    def _other_batch_size(self, received):
        return (
            f"{type(self).__name__}: a stateful layer keeps the batch size it was built with, "
            f"{self._expected_batch_size}. Received: a batch of {received}. Drop the last batch "
            "(`drop_remainder=True`) or use `stateful=False`."
        )


document(RNN)


def _paths():
    """Returns the paths of Keras's backend besides the cell's own loop, by their arguments."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from keras_gated.paths import cudnn, fused

        return {"use_cudnn": cudnn, "fused": fused}
    if backend == "torch":
        from keras_gated.paths import torch_kernels

        return {"fused": torch_kernels}
    if backend == "jax":
        from keras_gated.paths import jax_loops

        return {"fused": jax_loops}
    return {}


def outputs_mask(layer, mask):
    """Returns the mask of a layer's outputs, in their order; None without a sequence of outputs."""
    if mask is None or not layer.return_sequences:
        return None
    return ops.flip(mask, axis=1) if layer.go_backwards else mask


def _listed(states):
    return list(states) if isinstance(states, (list, tuple)) else [states]


def _one_for_each_row(tensor, sequences):
    """Returns a state or a mask with a row for each sequence: a single row is repeated."""
    if tensor is None or tensor.shape[0] != 1 or sequences.shape[0] == 1:
        return tensor
    return ops.broadcast_to(tensor, (ops.shape(sequences)[0], *ops.shape(tensor)[1:]))


def _mask_of_steps(mask):
    """Returns a mask as `(batch, time)`: Keras takes `(batch, time, 1)`, too."""
    return mask[:, :, 0] if mask is not None and len(mask.shape) == 3 else mask


def _dense(mask):
    """Returns a mask without ragged rows, as an `Embedding` of ragged ids makes them."""
    return mask.to_tensor(False) if hasattr(mask, "row_lengths") else mask


def _mask_of_ragged(sequences):
    import tensorflow as tf  # only TensorFlow has ragged tensors

    return tf.sequence_mask(sequences.row_lengths())
