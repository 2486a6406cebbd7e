"""A weight for every different n-gram, and how often an n-gram is in texts of either label."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from keras_gated.recipes import text
from keras_gated.recipes.ngrams import NGrams

ROWS = [[2, 3, 2, 4, 6], [5, 1, 2, 3, 0], [0, 0, 0, 0, 0], [6, 0, 0, 0, 0], [3, 3, 3, 3, 3]]


def runs_of(row, words=7, buckets=11):
    """The places of the different n-grams of one to three known words, one by one."""
    places = set()
    for end in range(len(row)):
        for length in (1, 2, 3):
            run = row[end - length + 1 : end + 1] if end + 1 >= length else []
            if len(run) == length and min(run) >= text.FIRST:
                number = functools.reduce(lambda n, word: n * words + word, run)
                places.add(number if length == 1 else words + number % buckets)
    return places


def test_different_n_grams_of_known_words_are_summed_by_weight():
    layer = NGrams(words=7, buckets=11, longest=3)
    kernel, ratio = np.random.default_rng(1).normal(size=(2, 18))
    layer.build((None, None))
    layer.kernel.assign(kernel)
    layer.ratio.assign(ratio)
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


def test_a_bucket_belongs_to_the_n_gram_that_tells_most():
    """By hand: 2 3 is in three texts of label 1, 4 2 in one of each; all share the one bucket.

    With one added to every count, 4 of the 16 of label 1 and 1 of the 8 of label 0 are its own.
    """
    layer = NGrams(words=5, buckets=1, longest=2)
    texts = np.array([[2, 3, 0, 4, 2], [2, 3, 0, 0, 0], [2, 3, 0, 0, 0], [4, 2, 0, 0, 0]])
    layer.adapt(tf.data.Dataset.from_tensors((texts, np.array([1, 1, 1, 0]))), least=2)
    layer.kernel.assign(np.arange(6.0))
    of_words = layer.kernel.numpy() * layer.ratio.numpy()
    received = layer(np.array([[2, 3], [4, 2], [3, 4]]))[:, 0]
    alone = [of_words[list(words)].sum() for words in ([2, 3], [4, 2], [3, 4])]
    np.testing.assert_allclose(received - alone, [5 * math.log(2), 0, 0], atol=1e-6)


def test_weights_of_0_1_have_no_owners_and_are_read_as_they_were_meant():
    kernel, ratio = np.random.default_rng(1).normal(size=(2, 18))
    fresh = NGrams(words=7, buckets=11)
    fresh.build(None)
    fresh.load_own_variables({"0": kernel, "1": ratio})
    expected = [[sum(kernel[place] * ratio[place] for place in runs_of(row))] for row in ROWS]
    np.testing.assert_allclose(fresh(np.array(ROWS)), expected, atol=1e-6)


def test_rare_n_grams_own_no_bucket():
    layer = NGrams(words=5, buckets=101, longest=2)
    rows = tf.data.Dataset.from_tensors((np.array([[2, 3], [2, 3], [3, 2]]), np.array([1, 1, 0])))
    layer.adapt(rows, least=2)
    places = layer.places(np.array([[2, 3], [3, 2]])).numpy().max(axis=1)
    np.testing.assert_array_equal(places, [5 + (2 * 5 + 3) % 101, 3])


def test_buckets_that_the_check_cannot_tell_apart_are_refused():
    with pytest.raises(ValueError, match=r"must not be a multiple of 1048573\. Received: 1048573"):
        NGrams(100, 1_048_573)


def test_n_grams_too_many_for_64_bits_are_refused():
    with pytest.raises(ValueError, match=r"more than fit into 64 bits.*words=100000, longest=4"):
        NGrams(100_000, 11, longest=4)


@pytest.mark.parametrize("sizes", [(0, 5), (9, 0), (9.5, 5), ("9", 5), (9, -3), (9, 5, 2.5)])
def test_what_is_no_number_of_weights_is_refused(sizes):
    with pytest.raises(ValueError, match=r"^NGrams: `.*` must be at least 1.*\. Received: "):
        NGrams(*sizes)


@pytest.mark.parametrize("labels", [[1, 2], [-1, 1], ["neg", "pos"], [[1], [0]], [1, 0, 1]])
def test_rows_with_other_labels_than_0_and_1_are_refused(labels):
    """They were left out in silence."""
    with pytest.raises(ValueError, match=r"a label for each text, 0 or 1.*Received: shape \("):
        NGrams(9, 5).adapt([(np.array([[2, 3], [2, 4]]), np.array(labels))])


@pytest.mark.parametrize("ids", [[2, 9], [-1, 2]])
def test_rows_with_ids_outside_the_vocabulary_are_refused(ids):
    with pytest.raises(ValueError, match=rf"must be 0 to 8.*Received: {min(ids)} to {max(ids)}"):
        NGrams(9, 5).adapt([(np.array([ids]), np.array([1]))])


@pytest.mark.parametrize("longest", [0, -1])
def test_n_grams_of_no_word_are_refused(longest):
    with pytest.raises(ValueError, match=rf"at least one word. Received: longest={longest}"):
        NGrams(9, 5, longest)
