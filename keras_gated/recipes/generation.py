"""What an exported character model answers: it continues, scores, and goes step by step."""

import math

import numpy as np
import tensorflow as tf

from keras_gated.recipes.ids import FIRST, PADDING, UNKNOWN
from keras_gated.recipes.text import dense
from keras_gated.serve.signatures import Signature
from keras_gated.serve.streaming import Stepper

PIECE = 500  # steps read at a time, so that memory does not grow with the text


def characters(model, lookup, longest=10_000):
    """Returns the signatures of a model of the next character.

    Characters that the model does not know, and bytes that are no UTF-8, are left out of what it
    reads. Before a text stands a line break, which also stands for an empty prompt.

    Args:
        model: A Keras model from padded ids, `(batch, time)`, to logits, `(batch, time,
            characters)`, with recurrent layers of ours; or what can be called like a `Stepper`.
        lookup: From `text.character_lookup`.
        longest: The most characters that may be asked for in one call.

    Returns:
        Signature name to `Signature`. The first is the default one. `error`, string `(batch,)`,
        says what is out of its range in a row, NaN and infinity included, and is "" else; the
        row's other answers are then "" or 0. (An error of the call would be that of every row in
        the batch.)

        - `generate`: `prompt` (string), `length` (int32, characters to generate, 0 to `longest`),
          `temperature` (float; 0 takes the likeliest character, 1 samples from the model), `top_k`
          (int32; only the k likeliest characters are sampled from, 0 for all) and `seed` (int64),
          each `(batch,)`, to `text`, what follows the prompt, and `error`. Same inputs, same
          text, whatever stands in other rows.
        - `score`: `text` to `nats`, float `(batch,)`, the mean of -log p over its characters (0
          without any), and `characters`, int64, how many of them the model knows.
        - `step`: `token`, int64 `(batch,)`, and the states, `(batch, units)`, zeros to begin with
          (the first token: the line break), to `logits`, `(batch, characters)`, of the next token,
          the new states and `error`. A client streams with it, and the server keeps nothing.
        - `vocabulary`: `token` to `character`, `(batch,)`, and `error`.
    """
    stepper = model if hasattr(model, "states") else Stepper(model)
    alphabet = list(map(str, lookup.get_vocabulary()[FIRST:]))
    vocabulary, width = tf.constant(alphabet), len(alphabet)
    if "\n" not in alphabet:
        raise ValueError(
            "characters: `lookup` must hold the line break, which texts begin after. Received: "
            f"{alphabet}."
        )
    line_break = FIRST + alphabet.index("\n")

    def read(texts):
        ids = lookup(tf.strings.unicode_split(texts, "UTF-8", errors="ignore"))
        return tf.ragged.boolean_mask(ids, ids != UNKNOWN)

    def in_pieces(ids, function, found):
        """Reads long rows piece by piece: `found = function(place, ids, logits, found)`."""
        time = tf.shape(ids)[1]

        def body(place, states, found):
            piece = ids[:, place : place + PIECE]
            logits, states = stepper(piece, states)
            return place + PIECE, states, function(place, piece, logits, found)

        start = (0, stepper.zeros(tf.shape(ids)[0]), found)
        return tf.while_loop(lambda place, *_: place < time, body, start)[1:]

    def last(place, piece, logits, found):
        return tf.where(tf.reduce_any(piece != PADDING, 1)[:, None], logits[:, -1], found)

    def choose(logits, divisor, kept, draw):
        # Likeliest first; then the inverse of the cumulative distribution, one number a character.
        values, tokens = tf.math.top_k(logits, width)
        scaled = (values - values[:, :1]) / divisor
        cumulative = tf.cumsum(tf.where(kept, tf.exp(scaled), 0.0), axis=1)
        below = cumulative <= draw[:, None] * cumulative[:, -1:]
        place = tf.reduce_sum(tf.cast(below, tf.int32), axis=1)
        return tf.gather(tokens, tf.minimum(place, width - 1), axis=1, batch_dims=1)

    def draws_of_a_row(seed_and_length, most):
        seed, length = seed_and_length
        draws = tf.random.stateless_uniform([length], tf.stack([seed, 0]))
        return tf.pad(draws, [[0, most - length]])

    def generate(prompt, length, temperature, top_k, seed):
        error, (length, temperature, top_k) = refuse(
            (length, (length >= 0) & (length <= longest), f"`length` must be 0 to {longest}."),
            (
                temperature,
                tf.math.is_finite(temperature) & (temperature >= 0),
                "`temperature` must be finite, at least 0.",
            ),
            (top_k, top_k >= 0, "`top_k` must be at least 0 (all characters)."),
        )
        divisor = tf.where(temperature > 0, temperature, 1.0)[:, None]
        most_likely = tf.where(temperature > 0, tf.where(top_k == 0, width, top_k), 1)
        kept = tf.range(width)[None] < most_likely[:, None]
        ids = dense(read(prompt), empty=line_break)
        # At least one, since an empty TensorArray cannot be stacked.
        batch, most = tf.shape(ids)[0], tf.reduce_max(tf.concat([length, [1]], 0))
        draws = tf.map_fn(
            lambda row: draws_of_a_row(row, most),
            (seed, length),
            fn_output_signature=tf.TensorSpec([None], tf.float32),
        )
        draws = tf.transpose(tf.reshape(draws, [batch, most]))
        states, logits = in_pieces(ids, last, tf.zeros([batch, width]))
        written = tf.TensorArray(tf.int32, most, element_shape=[None])
        weights = stepper.weights()

        def body(t, logits, states, written):
            token = choose(logits, divisor, kept, draws[t])
            written = written.write(t, token)
            ids = tf.cast(token, tf.int64)[:, None] + FIRST
            logits, states = stepper(ids, states, weights=weights)
            return t + 1, logits[:, 0], states, written

        start = (0, tf.ensure_shape(logits, [None, width]), states, written)
        *_, written = tf.while_loop(lambda t, *_: t < most, body, start)
        tokens = tf.reshape(tf.transpose(written.stack()), [batch, most])
        rows = tf.RaggedTensor.from_tensor(tf.gather(vocabulary, tokens), lengths=length)
        return {"text": tf.strings.reduce_join(rows, axis=-1), "error": error}

    def score(text):
        known = read(text)
        targets = known.to_tensor(PADDING)
        inputs = tf.pad(targets, [[0, 0], [1, 0]], constant_values=line_break)[:, :-1]

        def add(place, piece, logits, total):
            target = targets[:, place : place + PIECE]
            nats = tf.nn.sparse_softmax_cross_entropy_with_logits(
                tf.maximum(target - FIRST, 0), logits
            )
            return total + tf.reduce_sum(tf.where(target != PADDING, nats, 0.0), axis=1)

        _, total = in_pieces(inputs, add, tf.zeros([tf.shape(targets)[0]]))
        count = known.row_lengths()
        return {"nats": total / tf.cast(tf.maximum(count, 1), tf.float32), "characters": count}

    def in_range(token):
        return token, (token >= 0) & (token < width), f"`token` must be 0 to {width - 1}."

    def step(token, *states):
        finite = [tf.reduce_all(tf.math.is_finite(state), axis=1) for state in states]
        said = [f"`{name}` must be finite." for name in stepper.states]
        error, (token, *states) = refuse(in_range(token), *zip(states, finite, said, strict=True))
        before = dict(zip(stepper.states, states, strict=True))
        logits, after = stepper(token[:, None] + FIRST, before)
        answer = {"logits": logits[:, 0], **after}
        good = error[:, None] == ""
        return {**{k: tf.where(good, v, 0) for k, v in answer.items()}, "error": error}

    def name_of(token):
        error, [token] = refuse(in_range(token))
        return {
            "character": tf.where(error == "", tf.gather(vocabulary, token), ""),
            "error": error,
        }

    dtypes = {
        "prompt": tf.string,
        "length": tf.int32,
        "temperature": tf.float32,
        "top_k": tf.int32,
        "seed": tf.int64,
    }
    token = tf.TensorSpec((None,), tf.int64, name="token")
    states = [tf.TensorSpec(s.shape, s.dtype, name=name) for name, s in stepper.states.items()]
    zeros = {s.name: np.zeros((1, s.shape[1]), s.dtype.as_numpy_dtype) for s in states}
    rows = [("", 20, 0.8, 0, 1), (alphabet[-1] * 30, 50, 1.0, 5, 2)]
    continued = [{k: [v] for k, v in zip(dtypes, row, strict=True)} for row in rows]
    texts = ["", alphabet[-1], "".join(alphabet) * math.ceil(2 * PIECE / width)]
    return {
        "generate": Signature(
            generate,
            [tf.TensorSpec((None,), dtype, name=name) for name, dtype in dtypes.items()],
            continued,
        ),
        "score": Signature(
            score, [tf.TensorSpec((None,), tf.string, name="text")], [{"text": [t]} for t in texts]
        ),
        "step": Signature(step, [token, *states], [{"token": [line_break - FIRST], **zeros}]),
        "vocabulary": Signature(name_of, [token], [{"token": list(range(width))}]),
    }


def refuse(*inputs):
    """Takes what is out of its range out of a batch.

    Args:
        inputs: `(values, in_range, message)`: values `(batch, ...)`, bools `(batch,)`.

    Returns:
        The first message for each row, or "", `(batch,)`; and the values, 0 in rows with a message.
    """
    error = tf.fill(tf.shape(inputs[0][1]), "")
    for _, good, message in reversed(inputs):
        error = tf.where(good, error, message)
    none = error == ""
    rows = [tf.reshape(none, [-1] + [1] * (len(v.shape) - 1)) for v, *_ in inputs]
    return error, [
        tf.where(row, values, tf.zeros([], values.dtype))
        for row, (values, *_) in zip(rows, inputs, strict=True)
    ]
