"""Models for LiteRT, asked by its interpreter."""

import keras
import numpy as np
import pytest
from families import FAMILIES
from keras import layers
from litert_files import asked, set_random

import keras_gated
from keras_gated import to_litert
from keras_gated.recipes.ngrams import NGrams

pytest.importorskip("ai_edge_litert")


@pytest.mark.sampled
@pytest.mark.parametrize("name", FAMILIES)
def test_any_number_of_steps_is_answered_as_the_model_does_with_masks(name, tmp_path):
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(30, 4, mask_zero=True)(ids)
    x = keras_gated.Bidirectional(FAMILIES[name].make(6, return_sequences=True))(x)
    model = keras.Model(ids, layers.Dense(2)(FAMILIES[name].make(5)(x)))
    set_random(model)
    written = to_litert(model, tmp_path / "model.tflite", batch_size=2)
    assert written.size == (tmp_path / "model.tflite").stat().st_size
    assert written.difference < 1e-5 and written.milliseconds > 0
    for steps in (1, 9, 40):
        given = np.random.default_rng(steps).integers(1, 30, (2, steps))
        given[0, steps // 2 + 1 :] = 0
        given[1, : steps // 3] = 0
        [answer] = asked(tmp_path / "model.tflite", given)
        np.testing.assert_allclose(answer, model(given), atol=1e-5)


def test_states_and_several_outputs_and_runs_of_words(tmp_path):
    ids, h0 = keras.Input((None,), dtype="int64", name="ids"), keras.Input((8,), name="h0")
    y, h = keras_gated.GRU(8, return_sequences=True, return_state=True)(
        layers.Embedding(50, 4)(ids), initial_state=h0
    )
    outputs = {"y": layers.Dense(2)(y), "h": h, "runs": NGrams(50, 101)(ids)}
    model = keras.Model({"ids": ids, "h0": h0}, outputs)
    set_random(model)
    assert to_litert(model, tmp_path / "model.tflite", steps=12).difference < 1e-5


def test_int8_is_a_quarter_of_the_size_and_near(tmp_path):
    x = keras.Input((None, 32))
    model = keras.Model(x, layers.Dense(3, activation="softmax")(keras_gated.LSTM(128)(x)))
    whole = to_litert(model, tmp_path / "whole.tflite")
    small = to_litert(model, tmp_path / "small.tflite", quantize="dynamic")
    assert small.size < 0.35 * whole.size
    assert whole.difference < 1e-5 < small.difference < 0.05


def test_what_needs_more_than_built_in_operations_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((None,), dtype="float32"), keras.layers.Lambda(beyond)])
    with pytest.raises(ValueError, match=r"built-in operations.*Bessel"):
        to_litert(model, tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="knows its input"):
        to_litert(keras.Sequential([layers.Dense(2)]), tmp_path / "model.tflite")
    for size in (0, -1, 2.5, None):
        with pytest.raises(ValueError, match="`batch_size` must be a whole number above 0"):
            to_litert(model, tmp_path / "model.tflite", batch_size=size)
    assert not list(tmp_path.iterdir())


def test_a_model_of_float64_is_refused_by_name(tmp_path):
    x = keras.Input((None, 3), dtype="float64")
    layer = keras_gated.GRU(4, dtype="float64", name="wide")
    with pytest.raises(ValueError, match=r"the layers \[.*'wide'.*\] are of float64"):
        to_litert(keras.Model(x, layer(x)), tmp_path / "model.tflite")


def test_a_layer_at_every_step_of_a_free_number_is_refused_by_name(tmp_path):
    """Without the refusal, the file of 8 bits differed by 0.4 of the largest answer."""

    def model(steps):
        x = keras.Input((steps, 3))
        each = layers.TimeDistributed(layers.Dense(2, activation="softmax"), name="each")
        return keras.Model(x, each(keras_gated.GRU(4, return_sequences=True)(x)))

    for options in ({}, {"quantize": "dynamic"}):
        with pytest.raises(ValueError, match=r"to_litert: .*\['each'\].* fixed number"):
            to_litert(model(None), tmp_path / "model.tflite", **options)
    assert not list(tmp_path.iterdir())
    assert to_litert(model(5), tmp_path / "model.tflite").difference < 1e-5


def test_a_layer_at_every_step_is_written_where_the_model_has_a_fixed_number(tmp_path):
    """In a model inside the model, and in another model, the number is free."""
    each = layers.TimeDistributed(layers.Dense(2, activation="softmax"))
    x = keras.Input((None, 3))
    inner = keras.Model(x, each(x))
    fixed, free = keras.Input((5, 3)), keras.Input((None, 3))
    last = keras_gated.GRU(4)(free)
    for y in (each(fixed), inner(fixed)):
        written = to_litert(keras.Model([fixed, free], [y, last]), tmp_path / "model.tflite")
        assert written.difference < 1e-5
    row, steps = keras.Input((3,)), keras.Input((None, 3))
    second = keras.Model([row, steps], [row, each(steps)])
    for given, model in ((free, inner), ([row, steps], second)):
        with pytest.raises(ValueError, match=r"to_litert: .* fixed number"):
            to_litert(keras.Model(given, model(given)), tmp_path / "model.tflite")


def beyond(x):
    import tensorflow as tf

    return tf.math.special.bessel_i0(x)
