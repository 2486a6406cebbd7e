"""SavedModels that cost nothing, for tests of what stands around a model."""

import tensorflow as tf


def save_number(directory, number):
    """Writes a version that answers `number` for every row of `x`."""
    module = tf.Module()
    module.number = tf.Variable(float(number))
    module.ask = tf.function(
        lambda x: {"y": tf.ones_like(x) * module.number},
        input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(directory), signatures=module.ask)


def save_words(directory):
    """Writes a version with an output as wide as the longest text, and a slow one."""
    module = tf.Module()

    def words(text):
        found = tf.strings.split(text)
        return {"words": found.to_tensor(""), "count": tf.cast(found.row_lengths(), tf.int32)}

    def slow(turns):
        def turn(n, x):
            return n + 1, tf.tanh(x @ x)

        _, x = tf.while_loop(
            lambda n, _: n < tf.reduce_max(turns),
            turn,
            (0, tf.ones([64, 64])),
            parallel_iterations=1,
        )
        return {"y": tf.zeros_like(turns) + tf.cast(x[0, 0], tf.int32)}

    module.words = tf.function(
        words, input_signature=[tf.TensorSpec([None], tf.string, name="text")]
    )
    module.slow = tf.function(slow, input_signature=[tf.TensorSpec([None], tf.int32, name="turns")])
    signatures = {"serving_default": module.words, "slow": module.slow}
    tf.saved_model.save(module, str(directory), signatures=signatures)
