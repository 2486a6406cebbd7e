"""A weight for every different run of words, and how often a run is in texts of either label."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from keras_gated.recipes import text
from keras_gated.recipes.ngrams import NGrams

ROWS = [[2, 3, 2, 4, 6], [5, 1, 2, 3, 0], [0, 0, 0, 0, 0], [6, 0, 0, 0, 0], [3, 3, 3, 3, 3]]


def runs_of(row, words=7, buckets=11):
    """The places of the different runs of one to three known words, one by one."""
    places = set()
    for end in range(len(row)):
        for length in (1, 2, 3):
            run = row[end - length + 1 : end + 1] if end + 1 >= length else []
            if len(run) == length and min(run) >= text.FIRST:
                number = functools.reduce(lambda n, word: n * words + word, run)
                places.add(number if length == 1 else words + number % buckets)
    return places


def test_different_runs_of_known_words_are_summed_by_weight():
    layer = NGrams(words=7, buckets=11, longest=3)
    kernel, ratio = np.random.default_rng(1).normal(size=(2, 18))
    layer.build((None, None))
    layer.set_weights([kernel, ratio])
    expected = [[sum(kernel[place] * ratio[place] for place in runs_of(row))] for row in ROWS]
    np.testing.assert_allclose(layer(np.array(ROWS)), expected, atol=1e-6)
    padded = np.pad(np.array(ROWS), [[0, 0], [0, 3]])
    np.testing.assert_allclose(layer(padded), expected, atol=1e-6)
    again = NGrams.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert layer.compute_output_shape((5, None)) == (5, 1)


def test_the_ratio_counts_texts_with_a_run_not_its_repetitions():
    """By hand, of words alone: 2 is in two texts of label 1 and none of 0, 3 in one of each."""
    layer = NGrams(words=5, buckets=1, longest=1)
    texts = np.array([[2, 2, 3], [2, 0, 0], [3, 3, 3], [4, 0, 0]])
    rows = tf.data.Dataset.from_tensor_slices((texts, [1, 1, 0, 0]))
    layer.adapt(rows.batch(3))
    # One is added to every count, of six places: 1 for what no text holds, and for padding.
    ones, zeros = 3 + 2 + 1 + 3, 1 + 2 + 2 + 3
    expected = [math.log(a / ones * zeros / b) for a, b in ((3, 1), (2, 2), (1, 2))]
    np.testing.assert_allclose(layer.ratio.numpy()[2:5], expected, rtol=1e-6)
    assert layer.ratio.numpy()[text.PADDING] == 0
    assert [v.name for v in layer.trainable_variables] == ["kernel"]


def test_runs_too_many_for_64_bits_are_refused():
    with pytest.raises(ValueError, match=r"more than fit into 64 bits.*words=100000, longest=4"):
        NGrams(100_000, 11, longest=4)
