"""What exported text models answer: signatures with text in and named outputs."""

import tensorflow as tf

from keras_gated.text import FIRST, UNKNOWN, dense

TEXTS = tf.TensorSpec((None,), tf.string)


def classify(model, vectorize):
    """Returns the signature of a binary text classifier.

    Args:
        model: A Keras model from padded ids, `(batch, time)`, to probabilities, `(batch, 1)`.
        vectorize: A function of texts, `(batch,)`, to padded ids, `(batch, time)`.

    Returns:
        `(function, input_specs)` for `export_signatures`: `text`, string `(batch,)`, to
        `probability`, float `(batch,)`, of the label 1, and `label`, int64 `(batch,)`, 0 or 1.
    """

    def answer(text):
        probability = model(vectorize(text), training=False)[:, 0]
        return {"probability": probability, "label": tf.cast(probability >= 0.5, tf.int64)}

    return answer, [tf.TensorSpec(TEXTS.shape, TEXTS.dtype, name="text")]


def generate(stepper, characters):
    """Returns the signature of a character model that continues a prompt.

    Args:
        stepper: A Keras model from `[ids, states]` to `[logits, states]`: ids `(batch, time)`
            with 0 where a row has ended, logits `(batch, time, characters)`.
        characters: The `StringLookup` from characters to ids.

    Returns:
        `(function, input_specs)` for `export_signatures`. All inputs have the shape `(batch,)`:
        `prompt` (string; characters the model does not know are left out, and an empty prompt
        stands for a line break), `length` (int32, characters to generate, at least 0),
        `temperature` (float; 0 takes the likeliest character, 1 samples from the model) and
        `seed` (int64). The output `text` holds what follows the prompt. A row's text depends on
        its own inputs alone, and is the same for the same seed.

        A negative length, or a temperature that is negative or not finite, is an error.
    """
    vocabulary = tf.constant(characters.get_vocabulary()[FIRST:])

    def read(prompts):
        ids = characters(tf.strings.unicode_split(prompts, "UTF-8", errors="ignore"))
        known = tf.ragged.boolean_mask(ids, ids != UNKNOWN)
        return dense(known, empty=characters(tf.constant("\n")))

    def sample(logits, temperature, draw):
        # The inverse of the cumulative distribution: one uniform number a character.
        scaled = logits / tf.where(temperature > 0, temperature, 1.0)[:, None]
        cumulative = tf.cumsum(tf.nn.softmax(scaled), axis=-1)
        sampled = tf.reduce_sum(tf.cast(cumulative < draw[:, None], tf.int64), axis=-1)
        sampled = tf.minimum(sampled, tf.cast(tf.shape(logits)[-1], tf.int64) - 1)
        return tf.where(temperature > 0, sampled, tf.argmax(logits, axis=-1))

    def draws_of_a_row(seed_and_length, longest):
        seed, length = seed_and_length
        draws = tf.random.stateless_uniform([length], tf.stack([seed, 0]))
        return tf.pad(draws, [[0, longest - length]])

    def answer(prompt, length, temperature, seed):
        with tf.control_dependencies(
            [
                tf.debugging.assert_non_negative(length, "`length` must be at least 0."),
                tf.debugging.assert_non_negative(temperature, "`temperature` must be at least 0."),
                tf.debugging.assert_all_finite(temperature, "`temperature` must be finite."),
            ]
        ):
            ids, length = read(prompt), tf.identity(length)
        # At least one, since an empty TensorArray cannot be stacked.
        batch, longest = tf.shape(ids)[0], tf.reduce_max(tf.concat([length, [1]], 0))
        draws = tf.map_fn(
            lambda row: draws_of_a_row(row, longest),
            (seed, length),
            fn_output_signature=tf.TensorSpec([None], tf.float32),
        )
        draws = tf.transpose(tf.reshape(draws, [batch, longest]))
        zeros = [tf.zeros([batch, state.shape[-1]], state.dtype) for state in stepper.inputs[1:]]
        # Only the last step of the prompt matters, and masked steps repeat it.
        logits, *states = stepper([ids, *zeros], training=False)
        written = tf.TensorArray(tf.int64, longest, element_shape=[None])

        def body(t, logits, states, written):
            chosen = sample(logits, temperature, draws[t])
            written = written.write(t, chosen)
            logits, *states = stepper([chosen[:, None] + FIRST, *states], training=False)
            return t + 1, logits[:, -1], states, written

        *_, written = tf.while_loop(
            lambda t, *_: t < longest,
            body,
            (0, tf.ensure_shape(logits[:, -1], [None, logits.shape[-1]]), states, written),
        )
        chosen = tf.reshape(tf.transpose(written.stack()), [batch, longest])
        rows = tf.RaggedTensor.from_tensor(tf.gather(vocabulary, chosen), lengths=length)
        return {"text": tf.strings.reduce_join(rows, axis=-1)}

    specs = {"prompt": tf.string, "length": tf.int32, "temperature": tf.float32, "seed": tf.int64}
    return answer, [tf.TensorSpec((None,), dtype, name=name) for name, dtype in specs.items()]
