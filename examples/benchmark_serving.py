"""The measurements of `benchmark.py --serving`: the exported example models, in the C library.

The same models with our layers and with `keras.layers` are exported alike, and their calls
alternate. They classify texts of 200 words, and continue a prompt by 200 characters (with the same
loop in the graph).
"""

import pathlib
import tempfile
from unittest import mock

import c_session
import characters
import keras
import numpy as np
import sentiment
import tensorflow as tf
from benchmark import in_turn
from tensorflow.core.protobuf import meta_graph_pb2

import keras_gated
from keras_gated.recipes import classification, generation, text

WORDS, TOKENS, LENGTH, UNITS = 20_000, 200, 200, 512
ALPHABET = "\n !',-.:;?" + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ$&3"  # 65
LAYERS = {
    "keras": {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU},
    "ours": {"lstm": keras_gated.LSTM, "gru": keras_gated.GRU},
}


class KerasStepper:
    """Does the same as our `Stepper` for a model of `keras.layers`, with states wired by hand."""

    def __init__(self, cell):
        ids = keras.Input((None,), dtype="int64")
        layer = LAYERS["keras"][cell](UNITS, return_sequences=True, return_state=True)
        names = ["hidden", "memory"][: 2 if cell == "lstm" else 1]
        before = [keras.Input((UNITS,)) for _ in names]
        # Without a mask: with a mask `keras.layers` computes masked steps and discards the result.
        x = keras.layers.Embedding(len(ALPHABET) + text.FIRST, 64)(ids)
        x, *after = layer(x, initial_state=before)
        self.model = keras.Model([ids, *before], [keras.layers.Dense(len(ALPHABET))(x), *after])
        self.states = {name: tf.TensorSpec((None, UNITS)) for name in names}

    def zeros(self, batch):
        return {name: tf.zeros([batch, UNITS]) for name in self.states}

    def weights(self):
        return None

    def __call__(self, ids, states, weights=None):
        logits, *after = self.model([ids, *states.values()], training=False)
        after = [tf.ensure_shape(state, [None, UNITS]) for state in after]
        return logits, dict(zip(states, after, strict=True))


def classifier(library, cell, folder):
    words = [f"w{number}" for number in range(WORDS)]
    vectorizer = text.word_vectorizer(tf.data.Dataset.from_tensors(words), WORDS)
    with mock.patch.dict(sentiment.CELLS, LAYERS[library]):
        model, _ = sentiment.build_model(WORDS, cell, 64, 1)
    # Keras's layers cannot show gates, so only the first signature is exported.
    found = classification.sentiment(model, vectorizer, TOKENS // 3, TOKENS - TOKENS // 3)
    signatures = {"serving_default": found["serving_default"]}
    return load(keras_gated.export_model(model, folder, signatures, track=[vectorizer]))


def writer(library, cell, folder):
    lookup = text.character_lookup(ALPHABET)
    if library == "ours":
        model, _ = characters.build_model(len(ALPHABET), cell, UNITS, 1)
        found = generation.characters(model, lookup)
    else:
        stepper = KerasStepper(cell)
        model, found = stepper.model, generation.characters(stepper, lookup)
    signatures = {"generate": found["generate"]}
    return load(keras_gated.export_model(model, folder, signatures, track=[lookup]))


def load(version):
    return c_session.Session(version, meta_graph_pb2.MetaGraphDef)


def measure(seconds):
    """Prints a line for each case. Returns its rows."""
    rows, draw = [], np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for cell in ("lstm", "gru"):
            models = {k: classifier(k, cell, folder / f"{cell}-{k}") for k in LAYERS}
            for batch in (1, 16, 64):
                words = draw.integers(0, WORDS - 2, (batch, TOKENS))
                texts = [" ".join(f"w{n}" for n in row).encode() for row in words]
                given = {"text": np.array(texts, object)}
                case = f"sentiment {cell}, {batch} texts of {TOKENS} words"
                compare(rows, case, models, "serving_default", given, batch, seconds)
            models = {k: writer(k, cell, folder / f"{cell}-writer-{k}") for k in LAYERS}
            given = {
                "prompt": np.array([b"To be"], object),
                "length": np.array([LENGTH], np.int32),
                "temperature": np.array([0.8], np.float32),
                "top_k": np.array([0], np.int32),
                "seed": np.array([1], np.int64),
            }
            case = f"characters {cell}, {LENGTH} characters"
            compare(rows, case, models, "generate", given, LENGTH, seconds)
    ratios = [
        row["ratio"] for row in rows if row["library"] == "ours" and "sentiment" in row["case"]
    ]
    print(f"sentiment, keras/ours: {np.exp(np.mean(np.log(ratios))):.2f} (geometric mean)")
    return rows


def compare(rows, case, models, signature, given, count, seconds):
    def call(session):
        return lambda: session.run(signature, given)

    times = in_turn({name: call(session) for name, session in models.items()}, seconds)
    middle = {name: float(np.median(found)) for name, found in times.items()}
    ratio = middle["keras"] / middle["ours"]
    print(f"{case:40}", end="")
    for name, found in times.items():
        late, rate = float(np.percentile(found, 99)), count * 1000 / middle[name]
        print(f"{name} p50 {middle[name]:7.2f} p99 {late:7.2f} ms {rate:7.0f}/s  ", end="")
        row = {"case": case, "library": name, "ms": middle[name], "p99": late, "rate": rate}
        rows.append({**row, "ratio": ratio})
    print(f"keras/ours {ratio:.2f}", flush=True)
