"""Writes the files of this version that every later one must load.

    python tests/files/write.py

They are written once for a version, with the oldest Keras it takes, and never again;
`test_files.py` loads those of all versions.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np

import keras_gated


def model():
    """Every layer and cell, and options that are not the default ones."""
    x = keras.Input((None, 2), name="x")
    masked = keras.layers.Masking()(x)
    rnn = keras_gated.SimpleRNN(2, return_sequences=True, kernel_regularizer="l2")(masked)
    both = keras_gated.Bidirectional(keras_gated.LSTM(2, return_sequences=True, dropout=0.1))(rnn)
    gru, state = keras_gated.GRU(3, return_sequences=True, return_state=True)(both)
    before = keras_gated.GRU(
        2, reset_after=False, go_backwards=True, recurrent_activation="hard_sigmoid"
    )(gru)
    cells = [
        keras_gated.SimpleRNNCell(2, activation="relu"),
        keras_gated.LSTMCell(2, unit_forget_bias=False, use_bias=False),
        keras_gated.GRUCell(2, recurrent_dropout=0.2, seed=3),
    ]
    return keras.Model(x, [before, state, keras.layers.RNN(cells)(gru)])


def stateful_model():
    x = keras.Input(batch_shape=(2, None, 2), name="x")
    return keras.Model(x, keras_gated.LSTM(2, stateful=True)(x))


if __name__ == "__main__":
    keras.utils.set_random_seed(1)
    directory = pathlib.Path(__file__).parent / keras_gated.__version__
    directory.mkdir()
    x = np.random.default_rng(0).normal(size=(2, 5, 2)).astype("float32")
    x[0, 3:] = 0
    everything, stateful = model(), stateful_model()
    stateful(x)
    everything.save(directory / "everything.keras")
    everything.save_weights(directory / "everything.weights.h5")
    stateful.save(directory / "stateful.keras")
    inputs = keras.Input((None, 2), name="x")
    small = keras.Model(inputs, keras_gated.GRU(2)(inputs))
    small.export(directory / "saved_model", verbose=False)
    outputs = {f"output_{i}": y for i, y in enumerate(everything(x))}
    np.savez(directory / "answers.npz", x=x, stateful=stateful(x), small=small(x), **outputs)
