"""The signatures of an exported text classifier: its answer, and how it came to the answer."""

import tensorflow as tf

from keras_gated.recipes import text
from keras_gated.recipes.arguments import check_whole
from keras_gated.serve.signatures import Signature, gates_of

PREFIXES = 64  # beginnings of texts that are read at a time, for the running probability


def sentiment(model, vectorizer, head, tail, gates=None):
    """Returns the signatures of a binary text classifier.

    Args:
        model: A Keras model from padded word ids, `(batch, time)`, to probabilities, `(batch, 1)`.
        vectorizer: From `text.word_vectorizer`.
        head, tail: The number of words that the model reads from the start and from the end of a
            longer text.
        gates: The recurrent layer whose gates are shown. Default: the last one.

    Returns:
        Signature name to `Signature`; the input of each is `text`, string `(batch,)`, any bytes.

        - `serving_default`: `probability`, float `(batch,)`, of the label 1, and `label`, int64.
        - `tokens`: `tokens`, string `(batch, head + tail)`, the words that were read, "" after the
          end; `known`, bool, whether the word is in the vocabulary; `probability`, float, of the
          text up to each word (a model that reads backwards reads each beginning anew), 0 after
          the end; `lengths`, int32 `(batch,)`. The width is always the same, because a server can
          join and cut only answers of the same width. A text without a word is read as one unknown
          word.
        - `gates`: the gates and states of the layer, `(batch, head + tail, units)`, for a
          `Bidirectional` as `forward_forget`, `backward_forget`, ...; and `lengths`. Zeros after
          the end.

    Raises:
        ValueError: If the model has another output than one probability, or if `head` or `tail` is
            negative or not a whole number. (A model without known outputs, a subclass, is not
            checked.)
    """
    check_whole("sentiment", 0, head=head, tail=tail)
    outputs = [tuple(x.shape) for x in getattr(model, "outputs", None) or ()]
    by_name = isinstance(getattr(model, "output", None), dict) if outputs else False
    if by_name or [shape[1:] for shape in outputs] not in ([], [(1,)], [(None,)]):
        raise ValueError(
            "sentiment: `model` must have one output, the probability of the label 1, of shape "
            f"(batch, 1), not in a dict. Received: outputs of shapes {outputs}. End it with "
            "`keras.layers.Dense(1, activation='sigmoid')`."
        )
    width = max(1, head + tail)  # a text without a word is one unknown word

    def words(texts):
        """Returns words and ids, ragged, each cut to the same places."""
        found = tf.strings.split(text.clean(texts))
        return [text.head_and_tail(x, head, tail) for x in (found, vectorizer(texts))]

    def answer(texts):
        probability = _probability(model, text.dense(words(texts)[1]))
        return {"probability": probability, "label": tf.cast(probability >= 0.5, tf.int64)}

    def answer_tokens(texts):
        tokens, ids = words(texts)
        ids = text.dense(ids)
        lengths = _lengths(ids)
        running = _running(model, ids, lengths)
        # A word with bytes that are not UTF-8 is unknown to the model, and JSON cannot hold it.
        tokens = tf.strings.unicode_transcode(tokens.to_tensor(""), "UTF-8", "UTF-8")
        known = _widened(ids, width) > text.UNKNOWN
        return {
            "tokens": _widened(tokens, width),
            "known": known,
            "probability": _widened(running, width),
            "lengths": lengths,
        }

    def answer_gates(texts):
        ids = text.dense(words(texts)[1])
        lengths = _lengths(ids)
        found = gates_of(model, ids, gates)
        return {**{k: _widened(v, width) for k, v in found.items()}, "lengths": lengths}

    specs = [tf.TensorSpec((None,), tf.string, name="text")]
    texts = ["", "A moving film, wonderfully acted.", "A long wait for nothing. " * 40]
    examples = [{"text": [one]} for one in texts] + [{"text": texts * 5}]
    return {
        "serving_default": Signature(answer, specs, examples),
        "tokens": Signature(answer_tokens, specs, examples[:3]),
        "gates": Signature(answer_gates, specs, examples[:2]),
    }


def _widened(values, width):
    """Pads axis 1, so that its size does not depend on the texts of a batch."""
    missing = width - tf.shape(values)[1]
    paddings = [[0, 0], [0, missing], *[[0, 0]] * (len(values.shape) - 2)]
    empty = tf.zeros((), values.dtype)  # "" for strings
    return tf.ensure_shape(
        tf.pad(values, paddings, constant_values=empty), [None, width, *values.shape[2:]]
    )


def _probability(model, ids):
    """Returns the probability of every row, in float32 whatever the model computes in."""
    return tf.cast(model(ids, training=False)[:, 0], tf.float32)


def _lengths(ids):
    return tf.reduce_sum(tf.cast(ids != text.PADDING, tf.int32), axis=1)


def _running(model, ids, lengths):
    """Returns the probability of every beginning of every row, `(batch, time)`."""
    rows = tf.repeat(tf.range(tf.shape(ids)[0]), lengths)
    ends = tf.ragged.range(lengths).flat_values + 1
    # At least one piece: an empty TensorArray cannot be joined.
    pieces = tf.maximum(1, -(-tf.size(rows) // PREFIXES))
    written = tf.TensorArray(tf.float32, pieces, element_shape=[None], infer_shape=False)

    def body(piece, written):
        own = slice(piece * PREFIXES, (piece + 1) * PREFIXES)
        longest = tf.reduce_max(tf.concat([ends[own], [1]], 0))
        beginning = tf.range(longest)[None] < ends[own][:, None]
        read = tf.where(beginning, tf.gather(ids, rows[own])[:, :longest], text.PADDING)
        return piece + 1, written.write(piece, _probability(model, read))

    _, written = tf.while_loop(lambda piece, _: piece < pieces, body, (0, written))
    return tf.RaggedTensor.from_row_lengths(written.concat(), lengths).to_tensor(0.0)
