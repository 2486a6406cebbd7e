"""A small classifier and a small character model with random weights, exported once a worker."""

import functools
import tempfile
from typing import Any, NamedTuple

import characters as example
import keras
import pytest
import tensorflow as tf
from chunks import shorten_chunks

import keras_gated
from keras_gated import export_model
from keras_gated.recipes import classification, generation, text


class Exported(NamedTuple):
    model: Any
    lookup: Any  # from texts or characters to ids
    directory: str  # of all versions
    version: str
    loaded: Any  # a signature does not keep its model alive

    def ask(self, signature="serving_default", **given):
        function = self.loaded.signatures[signature]
        inputs = function.structured_input_signature[1]
        answer = function(**{k: tf.constant(v, inputs[k].dtype) for k, v in given.items()})
        return {name: value.numpy() for name, value in answer.items()}


def _exported(name, model, lookup, signatures):
    directory = f"{tempfile.mkdtemp()}/{name}"
    with pytest.MonkeyPatch.context() as patch:
        shorten_chunks(patch, 4)  # graphs load in half the time
        version = export_model(model, directory, signatures, track=[lookup])
    return Exported(model, lookup, directory, version, tf.saved_model.load(version))


@functools.cache
def sentiment():
    keras.utils.set_random_seed(1)
    vectorizer = text.word_vectorizer(tf.data.Dataset.from_tensors(["a good film .", "bad !"]), 20)
    ids = keras.Input((None,), dtype="int64")
    hidden = keras.layers.Embedding(20, 4, mask_zero=True)(ids)
    lstm = keras_gated.LSTM(3, return_sequences=True)
    hidden = keras_gated.Bidirectional(lstm, name="both")(hidden)
    hidden = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(ids, keras.layers.Dense(1, "sigmoid")(hidden))
    return _exported(
        "sentiment", model, vectorizer, classification.sentiment(model, vectorizer, 100, 200)
    )


@functools.cache
def characters():
    keras.utils.set_random_seed(2)
    lookup = text.character_lookup("abc \n")
    model, _ = example.build_model(5, "lstm", 16, 2)
    kernel, bias = model.get_layer("network").get_weights()
    model.get_layer("network").set_weights([kernel * 5, bias])
    return _exported("characters", model, lookup, generation.characters(model, lookup))
