"""The signatures of exported models, made of functional models.

All inputs and outputs have a batch axis first, since REST and batching need one. A row's answer
depends on that row alone: a server puts rows of different callers into one batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import tree

from keras_gated.inside.trace import named, trace_gates
from keras_gated.paths.recorder import recording
from keras_gated.serve.inputs import example_of, packed
from keras_gated.serve.streaming import Stepper, check_masked, check_pieces, masks_of_inputs


class Signature(NamedTuple):
    """One function of a served model, with its named inputs.

    Attributes:
        function: Takes one tensor for each input, in order, and returns a dict of named outputs.
        inputs: `tf.TensorSpec`s with names, each with a batch axis of unknown size.
        examples: Warm-up requests for a server, each a dict of arrays by input name.
    """

    function: Callable
    inputs: Sequence[tf.TensorSpec]
    examples: Sequence[dict] = ()


def functional(model, lengths=False, states=False, gates=None):
    """Returns the signatures of a functional or sequential model.

    Args:
        model: The model. The signature has the names of its inputs and outputs. Outputs of the
            same name are numbered.
        lengths: Whether an input `lengths`, int32 `(batch,)`, takes the place of masks, for inputs
            with an unknown number of steps. Steps at index >= lengths are ignored. lengths <= 0
            ignores the row; lengths > time uses all steps. (A server that pads rows of unequal
            length pads with the first entry of a row, not with 0. So `mask_zero` alone would be
            wrong there.)
        states: Whether the states of the recurrent layers are inputs and outputs of the same
            names, `<layer>_hidden` and `<layer>_memory`, `(batch, units)`. A sequence begins with
            states of zeros.
        gates: Optional name of a layer. A signature `gates` returns all its gates and states,
            `(batch, time, units)`, for the same inputs, from initial states of zero.

    Returns:
        A dict of `Signature` by name: `serving_default`, and `gates`.

    Raises:
        ValueError: If the inputs are not known or have a fixed batch size, if no layer takes
            lengths or states, if the mask of `lengths` does not reach a recurrent layer, or if
            pieces of a sequence would be answered differently from the whole one.
    """
    symbolic = _inputs_of(model)
    timed = [len(x.shape) > 1 and x.shape[1] is None for x in symbolic]
    if lengths and not any(timed):
        raise ValueError(
            f"export_model: `lengths=True` needs an input with an unknown number of steps, "
            f"(batch, None, ...). Received: {[(x.name, x.shape) for x in symbolic]}."
        )
    stepper = Stepper(model) if states else None
    if states and any(timed):
        check_pieces(stepper, "export_model")
    specs = [tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=x.name) for x in symbolic]
    length_specs = [tf.TensorSpec((None,), tf.int32, name="lengths")] if lengths else []
    state_specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in (stepper.states if states else {}).items()
    ]

    def prepare(given):
        """Returns the model's inputs and their mask."""
        values, mask = given[: len(specs)], None
        if lengths:
            values, mask = _masked(values, timed, given[len(specs)])
        return packed(model, values), mask

    def answer(*given):
        inputs, mask = prepare(given)
        if states:
            before = dict(zip(stepper.states, given[len(specs) + len(length_specs) :], strict=True))
            outputs, after = stepper(inputs, before, mask)
        else:
            outputs, after = _called(model, inputs, mask), {}
        return {**outputs_by_name(model, outputs), **after}

    def answer_gates(*given):
        inputs, mask = prepare(given)
        return gates_of(model, inputs, gates, mask)

    inputs = [*specs, *length_specs, *state_specs]
    signatures = {"serving_default": Signature(answer, inputs, _examples(inputs))}
    if gates is not None:
        inputs = [*specs, *length_specs]
        signatures["gates"] = Signature(answer_gates, inputs, _examples(inputs))
    return signatures


def gates_of(model, inputs, layer, mask=None):
    """Returns the gates of one layer of a model, by names that a signature allows."""
    with masks_of_inputs():
        traces = dict(named(trace_gates(model, inputs, mask)))
    names = [name.split("/")[0] for name in traces]
    layer = names[-1] if layer is None else layer
    if layer not in names:
        raise ValueError(
            f"export_model: `gates` must name a recurrent layer of the model, one of "
            f"{sorted(set(names))}. Received: gates={layer!r}."
        )
    return {
        f"{name[len(layer) + 1 :]}_{gate}".lstrip("_"): values
        for name, own in traces.items()
        if name.split("/")[0] == layer
        for gate, values in own.items()
    }


def _inputs_of(model):
    inputs = getattr(model, "inputs", None)
    if not isinstance(model, keras.Model) or not inputs:
        raise ValueError(
            "export_model: `model` must be a functional or sequential model whose inputs are known."
            f" Received: {model!r}. For any other, pass `signatures`."
        )
    for x in inputs:
        if not x.shape or x.shape[0] is not None:
            raise ValueError(
                "export_model: every input must have a batch axis of unknown size, since a server "
                f"batches requests. Received: {x.name} of shape {x.shape}. Build the model with "
                "`keras.Input((time, features))` and load the same weights."
            )
    return inputs


def _masked(values, timed, lengths):
    """Returns values with zeros from the lengths on, and the model's mask.

    Only inputs with steps (`timed`) change.
    """
    values, masks = list(values), [None] * len(values)
    for place, value in enumerate(values):
        if timed[place]:
            masks[place] = tf.sequence_mask(lengths, tf.shape(value)[1])
            rank = len(value.shape) - 2
            wide = tf.reshape(masks[place], [*tf.unstack(tf.shape(value))[:2], *[1] * rank])
            values[place] = tf.where(wide, value, tf.zeros((), value.dtype))
    return values, masks if len(masks) > 1 else masks[0]


def _called(model, inputs, mask):
    with recording("states") as calls, masks_of_inputs():
        outputs = model(inputs, training=False, mask=mask)
    check_masked(calls, mask)
    return outputs


def outputs_by_name(model, outputs):
    """Returns outputs by name: the keys of a dict, or the names of the layers that made them."""
    found = {}
    layers = getattr(model, "output_names", None) or [model.layers[-1].name]
    for place, (path, value) in enumerate(tree.flatten_with_path(outputs)):
        keys = [key for key in path if isinstance(key, str)]
        first = layers[min(place, len(layers) - 1)]
        name = base = "_".join(keys) or first
        count = 0
        while name in found:
            count += 1
            name = f"{base}_{count}"
        found[name] = value
    return found


def _examples(specs, steps=8):
    """Returns one request."""
    request = {s.name: example_of(s.shape, s.dtype, steps) for s in specs}
    if "lengths" in request:
        request["lengths"] = [steps]
    return [request]
