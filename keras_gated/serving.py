"""What exported models answer: signatures of functional models, classifiers and generators.

All inputs and outputs have a batch axis first, since REST and batching need one. A row's answer
depends on that row alone: a server puts rows of different callers into one batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_gated import text
from keras_gated.recorder import recording
from keras_gated.streaming import Stepper, check_masked, masks_of_inputs
from keras_gated.trace import named, trace_gates

PREFIXES = 64  # of texts that are read at a time, for the running probability


class Signature(NamedTuple):
    """One thing that a served model can be asked.

    function: Takes one tensor for each input, in order, and returns a dict of named outputs.
    inputs: `tf.TensorSpec`s with names, each with a batch axis of unknown size.
    examples: Requests to warm a server up with, each a dict of arrays by the inputs' names.
    """

    function: Callable
    inputs: Sequence[tf.TensorSpec]
    examples: Sequence[dict] = ()


def functional(model, lengths=False, states=False, gates=None):
    """Returns the signatures of a functional or sequential model.

    Args:
        model: The model. Its inputs' names are the signature's; so are its outputs', numbered
            where several have the same name.
        lengths: Whether there is an input `lengths`, int32 `(batch,)`, instead of masks: of the
            inputs whose number of steps is unknown, the steps from there on are masked, and may
            hold anything: none counts at 0 and below, all beyond their number. (With `mask_zero`
            alone, a server that pads rows of unequal length to batch them pads with a row's first
            entry, not with 0.)
        states: Whether the recurrent layers' states are inputs, `<layer>_hidden` and
            `<layer>_memory`, and outputs of the same names: `(batch, units)`, zeros to begin with.
        gates: Optional name of a layer, all gates and states of which the signature `gates`
            returns, `(batch, time, units)`, for the same inputs, from states of zero.

    Returns:
        Signature name to `Signature`: `serving_default`, and `gates`.

    Raises:
        ValueError: If inputs are not known or of a fixed batch size, if nothing takes lengths or
            states, or if a recurrent layer does not get the mask that stands for `lengths`.
    """
    symbolic = _inputs_of(model)
    timed = [len(x.shape) > 1 and x.shape[1] is None for x in symbolic]
    if lengths and not any(timed):
        raise ValueError(
            f"export_model: `lengths=True` needs an input with an unknown number of steps, "
            f"(batch, None, ...). Received: {[(x.name, x.shape) for x in symbolic]}."
        )
    stepper = Stepper(model) if states else None
    specs = [tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=x.name) for x in symbolic]
    length_specs = [tf.TensorSpec((None,), tf.int32, name="lengths")] if lengths else []
    state_specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in (stepper.states if states else {}).items()
    ]

    def prepare(given):
        """Returns the model's inputs and their mask."""
        values, masks = list(given[: len(specs)]), None
        if lengths:
            limits, masks = given[len(specs)], [None] * len(values)
            for place, value in enumerate(values):
                if timed[place]:
                    masks[place] = tf.sequence_mask(limits, tf.shape(value)[1])
                    rank = len(value.shape) - 2
                    wide = tf.reshape(masks[place], [*tf.unstack(tf.shape(value))[:2], *[1] * rank])
                    values[place] = tf.where(wide, value, tf.zeros((), value.dtype))
            masks = masks if len(masks) > 1 else masks[0]
        inputs = model.inputs if isinstance(model, keras.Sequential) else model.input
        if len(values) == 1 and not isinstance(inputs, dict):
            return values[0], masks
        return tree.pack_sequence_as(inputs, values), masks

    def answer(*given):
        inputs, mask = prepare(given)
        if states:
            before = dict(zip(stepper.states, given[len(specs) + len(length_specs) :], strict=True))
            outputs, after = stepper(inputs, before, mask)
        else:
            with recording("states") as calls, masks_of_inputs():
                outputs, after = model(inputs, training=False, mask=mask), {}
            check_masked(calls, mask)
        return {**_outputs_of(model, outputs), **after}

    def answer_gates(*given):
        inputs, mask = prepare(given)
        options = {} if mask is None else {"mask": mask}
        return _gates(model, inputs, gates, **options)

    inputs = [*specs, *length_specs, *state_specs]
    signatures = {"serving_default": Signature(answer, inputs, _examples(inputs))}
    if gates is not None:
        inputs = [*specs, *length_specs]
        signatures["gates"] = Signature(answer_gates, inputs, _examples(inputs))
    return signatures


def sentiment(model, vectorizer, head, tail, gates=None):
    """Returns the signatures of a binary text classifier.

    Args:
        model: A Keras model from padded word ids, `(batch, time)`, to probabilities, `(batch, 1)`.
        vectorizer: From `text.word_vectorizer`.
        head, tail: What the model reads of a longer text: so many words from either end.
        gates: The recurrent layer whose gates are shown. Default: the last one.

    Returns:
        Signature name to `Signature`; the input of each is `text`, string `(batch,)`, any bytes.

        - `serving_default`: `probability`, float `(batch,)`, of the label 1, and `label`, int64.
        - `tokens`: `tokens`, string `(batch, head + tail)`, the words that were read, "" after the
          end, which is always as wide: a server joins and cuts answers of one width alone;
          `known`, bool, whether the word is in the vocabulary; `probability`, float, of the text
          as far as each word (a model that reads backwards reads each beginning anew), 0 after
          the end; `lengths`, int32 `(batch,)`. A text without a word is read as one unknown word.
        - `gates`: the gates and states of the layer, `(batch, head + tail, units)`, for a
          `Bidirectional` as `forward_forget`, `backward_forget`, ...; and `lengths`. Zeros after
          the end.
    """

    def words(texts):
        """Returns words and ids, ragged: the same places of both."""
        found = tf.strings.split(text.clean(texts))
        return [text.head_and_tail(x, head, tail) for x in (found, vectorizer(texts))]

    def widened(values):
        """Pads axis 1, so that its size does not depend on the texts of a batch."""
        missing = max(1, head + tail) - tf.shape(values)[1]
        paddings = [[0, 0], [0, missing], *[[0, 0]] * (len(values.shape) - 2)]
        empty = tf.zeros((), values.dtype)  # "" of strings
        return tf.ensure_shape(
            tf.pad(values, paddings, constant_values=empty),
            [None, max(1, head + tail), *values.shape[2:]],
        )

    def answer(texts):
        probability = model(text.dense(words(texts)[1]), training=False)[:, 0]
        return {"probability": probability, "label": tf.cast(probability >= 0.5, tf.int64)}

    def answer_tokens(texts):
        tokens, ids = words(texts)
        ids = text.dense(ids)
        lengths = tf.reduce_sum(tf.cast(ids != text.PADDING, tf.int32), axis=1)
        running = _running(model, ids, lengths)
        # Bytes that are no UTF-8 are a model's unknown word, but cannot stand in an answer's JSON.
        tokens = tf.strings.unicode_transcode(tokens.to_tensor(""), "UTF-8", "UTF-8")
        known = widened(ids) > text.UNKNOWN
        return {
            "tokens": widened(tokens),
            "known": known,
            "probability": widened(running),
            "lengths": lengths,
        }

    def answer_gates(texts):
        ids = text.dense(words(texts)[1])
        lengths = tf.reduce_sum(tf.cast(ids != text.PADDING, tf.int32), axis=1)
        found = {name: widened(values) for name, values in _gates(model, ids, gates).items()}
        return {**found, "lengths": lengths}

    specs = [tf.TensorSpec((None,), tf.string, name="text")]
    texts = ["", "A moving film, wonderfully acted.", "A long wait for nothing. " * 40]
    examples = [{"text": [one]} for one in texts] + [{"text": texts * 5}]
    return {
        "serving_default": Signature(answer, specs, examples),
        "tokens": Signature(answer_tokens, specs, examples[:3]),
        "gates": Signature(answer_gates, specs, examples[:2]),
    }


def _running(model, ids, lengths):
    """Returns the probability of every beginning of every row, `(batch, time)`."""
    rows = tf.repeat(tf.range(tf.shape(ids)[0]), lengths)
    ends = tf.ragged.range(lengths).flat_values + 1
    # At least one piece, since nothing cannot be joined.
    pieces = tf.maximum(1, -(-tf.size(rows) // PREFIXES))
    written = tf.TensorArray(tf.float32, pieces, element_shape=[None], infer_shape=False)

    def body(piece, written):
        own = slice(piece * PREFIXES, (piece + 1) * PREFIXES)
        longest = tf.reduce_max(tf.concat([ends[own], [1]], 0))
        beginning = tf.range(longest)[None] < ends[own][:, None]
        read = tf.where(beginning, tf.gather(ids, rows[own])[:, :longest], text.PADDING)
        answer = tf.cast(model(read, training=False)[:, 0], tf.float32)
        return piece + 1, written.write(piece, answer)

    _, written = tf.while_loop(lambda piece, _: piece < pieces, body, (0, written))
    return tf.RaggedTensor.from_row_lengths(written.concat(), lengths).to_tensor(0.0)


def _gates(model, inputs, layer, **options):
    """Returns the gates of one layer of a model, by names that may stand in a signature."""
    with masks_of_inputs():
        traces = dict(named(trace_gates(model, inputs, **options)))
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


def _outputs_of(model, outputs):
    """Returns outputs by name: a dict's keys, or the names of the layers they come from."""
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
    """Returns one request: ones for ids, whose padding would be 0, and numbers around zero."""
    request = {}
    for spec in specs:
        shape = [1, *(steps if n is None else n for n in spec.shape[1:])]
        if spec.name == "lengths":
            request[spec.name] = [steps]
        elif spec.dtype == tf.string:
            request[spec.name] = np.full(shape, b"")
        elif spec.dtype.is_floating:
            values = np.sin(np.arange(np.prod(shape, dtype=int)))
            request[spec.name] = values.reshape(shape).astype(spec.dtype.as_numpy_dtype)
        else:
            request[spec.name] = np.ones(shape, spec.dtype.as_numpy_dtype)
    return [request]
