"""Writes an old model as training on a GPU did: Keras 2 with a `CuDNNLSTM`. See `convert.py`."""

import tensorflow as tf

from keras_gated.recipes import text
from keras_gated.serve.signatures import Signature


def write(path, words, units, batches, epochs):
    """Trains a classifier in `tf_keras`, and writes it as Keras 2 did on a GPU, without a mask.

    Returns:
        A `tf_keras` model with the same answers as the file. A `CuDNNLSTM` itself runs on a GPU
        alone. The returned model has an `LSTM` in its place; `tf_keras` converts the weights.
    """
    import tf_keras
    from tf_keras.src.layers.rnn.cudnn_lstm import CuDNNLSTM

    def model(recurrent):
        # Padding stands after the words. A layer that reads backwards reads the padding first.
        return tf_keras.Sequential(
            [
                tf_keras.layers.Embedding(words, 32, name="words"),
                recurrent(units, go_backwards=True, name="recurrent"),
                tf_keras.layers.Dense(1, activation="sigmoid", name="probability"),
            ],
            name="old",
        )

    tf_keras.utils.set_random_seed(1)
    trained, old = model(tf_keras.layers.LSTM), model(CuDNNLSTM)
    trained.compile(tf_keras.optimizers.Adam(3e-3), "binary_crossentropy")
    for epoch in range(epochs):
        losses = [trained.train_on_batch(ids, labels) for ids, labels in batches]
        print(f"Keras 2, epoch {epoch + 1}: {sum(losses) / len(losses):.3f} nats", flush=True)
    old.build((None, batches[0][0].shape[1]))
    trained.save_weights(path)
    old.load_weights(path)
    old.save(path)
    return trained


def signatures(model, vectorizer, head, tail):
    """Returns the signature of a classifier that reads texts of one width, without a mask."""

    def answer(texts):
        ids = text.dense(text.head_and_tail(vectorizer(texts), head, tail))
        ids = tf.pad(ids, [[0, 0], [0, head + tail - tf.shape(ids)[1]]])
        return {"probability": model(ids, training=False)[:, 0]}

    spec = tf.TensorSpec([None], tf.string, name="text")
    request = {"text": ["The plot was not dreadful, it was truly gripping."]}
    return {"serving_default": Signature(answer, [spec], [request])}
