"""The signatures of exported models, made of functional models.

All inputs and outputs have a batch axis first, since REST and batching need one. A row's answer
depends on that row alone: a server puts rows of different callers into one batch.
"""

import keyword
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_gated.inside.trace import named, trace_gates
from keras_gated.paths.path import exporting
from keras_gated.paths.recorder import recording
from keras_gated.serve.difference import difference
from keras_gated.serve.inputs import example_of, packed
from keras_gated.serve.streaming import (
    Stepper,
    check_masked,
    check_pieces,
    examples_of,
    masks_of_inputs,
    tolerance,
)

_STEPS, _PADDING = 8, 4  # steps of the rows that a model is asked, together and alone


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
            same name are numbered. The names of inputs and states may hold letters, digits and
            `_`: see `allowed_name`.
        lengths: Whether an input `lengths`, int32 `(batch,)`, takes the place of masks, for inputs
            with an unknown number of steps. Steps at index >= lengths are ignored. lengths <= 0
            ignores the row; lengths > time uses all steps. (A server that pads rows of unequal
            length pads with the first entry of a row, not with 0. So `mask_zero` alone would be
            wrong there.)
        states: Whether the states of the recurrent layers are inputs and outputs of the same
            names, `<layer>_hidden` and `<layer>_memory`, `(batch, units)`. A sequence begins with
            states of zeros. An input that the model looks at as a whole (what a decoder attends
            to) is given whole with each piece.
        gates: Optional name of a layer. A signature `gates` returns all its gates and states,
            `(batch, time, units)`, for the same inputs, from initial states of zero.

    Returns:
        A dict of `Signature` by name: `serving_default`, and `gates`.

    Raises:
        ValueError: If the inputs are not known or have a fixed batch size, if an output has no
            batch axis or the name of a state, if no layer takes lengths or states, if the mask of
            `lengths` does not reach a recurrent layer, or if a layer that is to carry states has an
            initial state of its own. Two random rows are asked together, alone and (with `lengths`)
            with padding, and in pieces (with `states`): if the answers differ, it is an error, too.
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
    specs = [
        tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=allowed_name(x.name)) for x in symbolic
    ]
    length_specs = [tf.TensorSpec((None,), tf.int32, name="lengths")] if lengths else []
    state_specs = specs_of(stepper.states) if states else []

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
            after = {spec.name: after[name] for name, spec in zip(after, state_specs, strict=True)}
        else:
            outputs, after = _called(model, inputs, mask), {}
        return outputs_by_name(model, outputs, after, "export_model")

    def answer_gates(*given):
        inputs, mask = prepare(given)
        return gates_of(model, inputs, gates, mask)

    inputs = [*specs, *length_specs, *state_specs]
    # Traced for rows and steps of any number: the export then finds its loops traced already.
    unnamed = [tf.TensorSpec(spec.shape, spec.dtype) for spec in inputs]
    traced = tf.function(answer, input_signature=unnamed, autograph=False)
    _check_rows(model, traced, timed, lengths, stepper)
    of_steps = {spec.name: [_STEPS] for spec in length_specs}
    signatures = {"serving_default": Signature(answer, inputs, [{**_example(inputs), **of_steps}])}
    if gates is not None:
        inputs = [*specs, *length_specs]
        examples = [{**_example(inputs), **of_steps}]
        signatures["gates"] = Signature(answer_gates, inputs, examples)
    return signatures


def allowed_name(name):
    """Returns a name that an input of a signature may have.

    TensorFlow allows ASCII letters, digits and `_`, a letter first, and no word of Python. Any
    other character becomes `_`, and `arg_` stands before any other beginning, as `model.export` of
    Keras has it.
    """
    name = re.sub("[^A-Za-z0-9_]", "_", name)
    alone = name[:1].isalpha() and not keyword.iskeyword(name) and name != "self"
    return name if alone else f"arg_{name}"


def specs_of(states):
    """Returns the inputs of a signature for the states of a `Stepper`."""
    return [
        tf.TensorSpec(spec.shape, spec.dtype, name=allowed_name(name))
        for name, spec in states.items()
    ]


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


def _check_rows(model, answer, timed, lengths, stepper):
    """Raises unless the answer to a row depends on that row alone, and not on its padding.

    A model that answers at random, or that refuses random ids, is not checked.
    """
    padded = examples_of(model, 2, _STEPS + (_PADDING if lengths else 0))
    bare = [x[:, :_STEPS] if t else x for x, t in zip(padded, timed, strict=True)]
    others = [np.full(2, _STEPS, "int32")] if lengths else []
    others += stepper.zeros(2).values() if stepper else []

    def asked(values):
        """Returns the answers by name, or None if the model refuses random ids or so many steps."""
        try:
            return {n: np.asarray(y) for n, y in answer(*map(tf.constant, values)).items()}
        except tf.errors.InvalidArgumentError:
            return None

    def differs(found, expected):
        return max((difference([found[n]], [expected[n]]), n) for n in expected)

    with exporting():
        together, again = asked([*bare, *others]), asked([*bare, *others])
        alone = [asked([x[n : n + 1] for x in (*bare, *others)]) for n in range(2)]
        if None in (together, again, *alone):
            return
        for rows, found in ((2, together), (1, alone[0])):
            for name, value in found.items():
                if value.shape[:1] != (rows,):
                    raise ValueError(
                        "export_model: every output must have a batch axis first, since a server "
                        f"batches requests. Received: {name!r} of shape {value.shape} for {rows} "
                        "row(s). Compute it for each row, or leave it out."
                    )
        of_one = ({name: y.shape[1:] for name, y in one.items()} for one in (together, *alone))
        sizes, *others_sizes = of_one
        if differs(again, together)[0] > tolerance(model) or any(s != sizes for s in others_sizes):
            return  # it answers at random, or pads to the longest row
        joined = {name: np.concatenate([one[name] for one in alone]) for name in together}
        by, name = differs(joined, together)
        if not by <= tolerance(model):
            raise ValueError(
                "export_model: the answer to a row must depend on that row alone, since a server "
                f"puts rows of different callers into one batch. Received: {model.name!r}, whose "
                f"{name!r} differs by {by:.2g} of its largest answer if a row is asked alone. "
                "Leave out what is computed over the batch (a mean over axis 0, for example)."
            )
        if lengths:
            found = asked([*padded, *others])
            if found is None:
                return
            by, name = max(
                (min(difference([part], [y]) for part in _parts(found[n], y.shape)), n)
                for n, y in together.items()
            )
            if not by <= tolerance(model):
                raise ValueError(
                    "export_model: with `lengths=True` the padding of a row must not reach its "
                    f"answer. Received: {model.name!r}, whose {name!r} differs by {by:.2g} of its "
                    f"largest answer if rows of {_STEPS} steps get {_PADDING} more of padding. A "
                    "layer looks at steps without their mask (a mean over axis 1, `Conv1D`). Use a "
                    "layer that takes the mask (`GlobalAveragePooling1D`), or leave it out."
                )


def _parts(value, shape):
    """Returns the start and the end of an array, of a shape: outputs may be in reverse order."""
    sizes = list(zip(value.shape, shape, strict=True))
    return [
        value[tuple(slice(size) for _, size in sizes)],
        value[tuple(slice(have - size, None) for have, size in sizes)],
    ]


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


def outputs_by_name(model, outputs, states, owner):
    """Returns outputs by name: the keys of a dict, or the names of the layers that made them.

    The states follow, by their own names.

    Raises:
        ValueError: If an output has the name of a state.
    """
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
    if both := sorted(found.keys() & states.keys()):
        raise ValueError(
            f"{owner}: no output may have the name of a state. Received: {model.name!r}, of which "
            f"{both} are outputs and states. Give these outputs, or the recurrent layers, other "
            "names."
        )
    return {**found, **states}


def _example(specs):
    """Returns a request."""
    return {spec.name: example_of(spec.shape, spec.dtype, _STEPS) for spec in specs}
