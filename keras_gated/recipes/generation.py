"""The signatures of an exported character model: continue a text, score it, go step by step."""

import math

import numpy as np
import tensorflow as tf

from keras_gated.recipes.arguments import check_whole
from keras_gated.recipes.ids import FIRST, PADDING, UNKNOWN
from keras_gated.recipes.text import dense
from keras_gated.serve.signatures import Signature, allowed_name, specs_of
from keras_gated.serve.streaming import Stepper, check_pieces

PIECE = 500  # steps read at a time, so that memory does not grow with the text

_GENERATE = [
    tf.TensorSpec((None,), tf.string, name="prompt"),
    tf.TensorSpec((None,), tf.int32, name="length"),
    tf.TensorSpec((None,), tf.float32, name="temperature"),
    tf.TensorSpec((None,), tf.int32, name="top_k"),
    tf.TensorSpec((None,), tf.int64, name="seed"),
]
_TEXT = tf.TensorSpec((None,), tf.string, name="text")


def characters(model, lookup, longest=10_000):
    """Returns the signatures of a model of the next character.

    The model does not read characters that it does not know, or bytes that are not UTF-8. It reads
    a line break before a text, and in the place of an empty prompt.

    Args:
        model: A Keras model from padded ids, `(batch, time)`, to logits, `(batch, time,
            characters)`, with recurrent layers of ours; or an object with the calls of a `Stepper`.
        lookup: From `text.character_lookup`.
        longest: The most characters that may be asked for in one call.

    Returns:
        Signature name to `Signature`. The first is the default one. `error`, string `(batch,)`,
        says which input of a row is out of its range, NaN and infinity included. The row's other
        answers are then "" or 0. Otherwise `error` is "". (If the call failed instead, it would
        fail for every row in the batch.)

        - `generate`: `prompt` (string), `length` (int32, characters to generate, 0 to `longest`),
          `temperature` (float; 0 takes the likeliest character, 1 samples from the model), `top_k`
          (int32; only the k likeliest characters are sampled from, 0 for all) and `seed` (int64),
          each `(batch,)`, to `text`, the text that follows the prompt, and `error`. The same
          inputs give the same text, whatever stands in other rows.
        - `score`: `text` to `nats`, float `(batch,)`, the mean of -log p over its characters (0
          if there are none), and `characters`, int64, the number of them that the model knows.
        - `step`: `token`, int64 `(batch,)`, and the states, `(batch, units)`, to `logits`,
          float `(batch, characters)`, of the next token, the new states and `error`. A text begins
          with states of zeros and the token of the line break. A client streams with this
          signature, and the server keeps nothing.
        - `vocabulary`: `token` to `character`, `(batch,)`, and `error`.

    Raises:
        ValueError: If `longest` is not a whole number of at least 1, if `lookup` lacks the line
            break or has other characters than the model, or if the model answers a text in pieces
            differently from the whole text. (A model without known inputs, a subclass, is not
            checked.)
    """
    check_whole("characters", 1, longest=longest)
    stepper = model if hasattr(model, "states") else Stepper(model)
    answers = _Answers(stepper, lookup, longest)
    if getattr(model, "inputs", None):
        _check(stepper, answers.width)
    alphabet, width = answers.alphabet, answers.width
    requests = [("", 20, 0.8, 0, 1), (alphabet[-1] * 30, 50, 1.0, 5, 2)]
    texts = ["", alphabet[-1], "".join(alphabet) * math.ceil(2 * PIECE / width)]
    token = tf.TensorSpec((None,), tf.int64, name="token")
    states = specs_of(stepper.states)
    zeros = {s.name: np.zeros((1, s.shape[1]), s.dtype.as_numpy_dtype) for s in states}
    first = {"token": [answers.line_break - FIRST], **zeros}
    return {
        "generate": Signature(
            answers.generate,
            _GENERATE,
            [{s.name: [v] for s, v in zip(_GENERATE, row, strict=True)} for row in requests],
        ),
        "score": Signature(answers.score, [_TEXT], [{"text": [text]} for text in texts]),
        "step": Signature(answers.step, [token, *states], [first]),
        "vocabulary": Signature(answers.name_of, [token], [{"token": list(range(width))}]),
    }


def _check(stepper, width):
    """Raises unless a functional model reads ids, step by step, and answers with enough logits."""
    model = stepper.model
    shapes = [[tuple(x.shape) for x in of] for of in (model.inputs, model.outputs)]
    if [[shape[1:] for shape in of] for of in shapes] != [[(None,)], [(None, width)]]:
        raise ValueError(
            f"characters: `model` must go from ids, (batch, None), to logits of the {width} "
            f"characters of `lookup`, (batch, None, {width}). Received: a model from {shapes[0]} "
            f"to {shapes[1]}. Give the `lookup` that the model was trained with."
        )
    check_pieces(stepper, "characters")


class _Answers:
    """The functions of the signatures of one model of the next character.

    A token is a character's place in the alphabet. The model's logits are in this order. The id
    that the model reads is the token plus `FIRST`.
    """

    def __init__(self, stepper, lookup, longest):
        self.stepper, self.lookup, self.longest = stepper, lookup, longest
        self.alphabet = list(map(str, lookup.get_vocabulary()[FIRST:]))
        if "\n" not in self.alphabet:
            raise ValueError(
                "characters: `lookup` must hold the line break, which texts begin after. Received: "
                f"{self.alphabet}."
            )
        self.line_break = FIRST + self.alphabet.index("\n")
        self.width, self._vocabulary = len(self.alphabet), tf.constant(self.alphabet)

    def generate(self, prompt, length, temperature, top_k, seed):
        error, (length, temperature, top_k) = refuse(
            (
                length,
                (length >= 0) & (length <= self.longest),
                f"`length` must be 0 to {self.longest}.",
            ),
            (
                temperature,
                tf.math.is_finite(temperature) & (temperature >= 0),
                "`temperature` must be finite, at least 0.",
            ),
            (top_k, top_k >= 0, "`top_k` must be at least 0 (all characters)."),
        )
        choose = _sampler(temperature, top_k, self.width)
        ids = dense(self._known_ids(prompt), empty=self.line_break)
        # At least one step: an empty TensorArray cannot be stacked.
        batch, most = tf.shape(ids)[0], tf.reduce_max(tf.concat([length, [1]], 0))
        draws = _draws(seed, length, batch, most)
        states, logits = self._read(ids, _last_logits, tf.zeros([batch, self.width]))
        written = self._write(logits, states, lambda t, logits: choose(logits, draws[t]), most)
        tokens = tf.reshape(tf.transpose(written), [batch, most])
        rows = tf.RaggedTensor.from_tensor(tf.gather(self._vocabulary, tokens), lengths=length)
        return {"text": tf.strings.reduce_join(rows, axis=-1), "error": error}

    def score(self, text):
        known = self._known_ids(text)
        targets = known.to_tensor(PADDING)
        inputs = tf.pad(targets, [[0, 0], [1, 0]], constant_values=self.line_break)[:, :-1]

        def add(place, piece, logits, total):
            target = targets[:, place : place + PIECE]
            nats = tf.nn.sparse_softmax_cross_entropy_with_logits(
                tf.maximum(target - FIRST, 0), logits
            )
            return total + tf.reduce_sum(tf.where(target != PADDING, nats, 0.0), axis=1)

        _, total = self._read(inputs, add, tf.zeros([tf.shape(targets)[0]]))
        count = known.row_lengths()
        return {"nats": total / tf.cast(tf.maximum(count, 1), tf.float32), "characters": count}

    def step(self, token, *states):
        names = list(self.stepper.states)
        finite = [tf.reduce_all(tf.math.is_finite(state), axis=1) for state in states]
        said = [f"`{allowed_name(name)}` must be finite." for name in names]
        error, (token, *states) = refuse(
            self._in_range(token), *zip(states, finite, said, strict=True)
        )
        logits, after = self._next(token[:, None] + FIRST, dict(zip(names, states, strict=True)))
        after = {allowed_name(name): state for name, state in after.items()}
        answer = {"logits": logits[:, 0], **after}
        good = error[:, None] == ""
        return {**{k: tf.where(good, v, 0) for k, v in answer.items()}, "error": error}

    def name_of(self, token):
        error, [token] = refuse(self._in_range(token))
        found = tf.where(error == "", tf.gather(self._vocabulary, token), "")
        return {"character": found, "error": error}

    def _next(self, ids, states, **options):
        """Returns the logits, in float32 whatever the model computes in, and the new states."""
        logits, states = self.stepper(ids, states, **options)
        [logits] = tf.nest.flatten(logits)  # a model may return them in a dict or a list
        return tf.cast(logits, tf.float32), states

    def _in_range(self, token):
        good = (token >= 0) & (token < self.width)
        return token, good, f"`token` must be 0 to {self.width - 1}."

    def _known_ids(self, texts):
        ids = self.lookup(tf.strings.unicode_split(texts, "UTF-8", errors="ignore"))
        return tf.ragged.boolean_mask(ids, ids != UNKNOWN)

    def _read(self, ids, function, found):
        """Reads long rows piece by piece: `found = function(place, ids, logits, found)`.

        Returns:
            The states after the rows, by name, and the last `found`.
        """
        time = tf.shape(ids)[1]

        def body(place, states, found):
            piece = ids[:, place : place + PIECE]
            logits, states = self._next(piece, states)
            return place + PIECE, states, function(place, piece, logits, found)

        start = (0, self.stepper.zeros(tf.shape(ids)[0]), found)
        return tf.while_loop(lambda place, *_: place < time, body, start)[1:]

    def _write(self, logits, states, choose, steps):
        """Returns the tokens that `choose(t, logits)` writes, `(steps, batch)`.

        Args:
            logits: The logits of the first token after the prompt, `(batch, characters)`.
            states: The states after the prompt, by name.
        """
        written = tf.TensorArray(tf.int32, steps, element_shape=[None])
        weights = self.stepper.weights()

        def body(t, logits, states, written):
            token = choose(t, logits)
            written = written.write(t, token)
            ids = tf.cast(token, tf.int64)[:, None] + FIRST
            logits, states = self._next(ids, states, weights=weights)
            return t + 1, logits[:, 0], states, written

        start = (0, tf.ensure_shape(logits, [None, self.width]), states, written)
        *_, written = tf.while_loop(lambda t, *_: t < steps, body, start)
        return written.stack()


def _last_logits(place, piece, logits, found):
    return tf.where(tf.reduce_any(piece != PADDING, 1)[:, None], logits[:, -1], found)


def _sampler(temperature, top_k, width):
    """Returns a function from logits and numbers from 0 to 1, `(batch,)`, to tokens."""
    divisor = tf.where(temperature > 0, temperature, 1.0)[:, None]
    most_likely = tf.where(temperature > 0, tf.where(top_k == 0, width, top_k), 1)
    kept = tf.range(width)[None] < most_likely[:, None]

    def choose(logits, draw):
        # The likeliest come first. Then one random number inverts the cumulative distribution.
        values, tokens = tf.math.top_k(logits, width)
        scaled = (values - values[:, :1]) / divisor
        cumulative = tf.cumsum(tf.where(kept, tf.exp(scaled), 0.0), axis=1)
        below = cumulative <= draw[:, None] * cumulative[:, -1:]
        place = tf.reduce_sum(tf.cast(below, tf.int32), axis=1)
        return tf.gather(tokens, tf.minimum(place, width - 1), axis=1, batch_dims=1)

    return choose


def _draws(seed, length, batch, most):
    """Returns numbers from 0 to 1, `(most, batch)`. Only a row's seed and length decide on them."""

    def of_a_row(seed_and_length):
        seed, length = seed_and_length
        draws = tf.random.stateless_uniform([length], tf.stack([seed, 0]))
        return tf.pad(draws, [[0, most - length]])

    draws = tf.map_fn(
        of_a_row, (seed, length), fn_output_signature=tf.TensorSpec([None], tf.float32)
    )
    return tf.transpose(tf.reshape(draws, [batch, most]))


def refuse(*inputs):
    """Replaces rows with a value out of its range by zeros, and says why.

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
