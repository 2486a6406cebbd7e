"""The counts of `KneserNey`, against the definition of Chen and Goodman 1998."""

import collections
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_gated.recipes.kneser_ney import KneserNey

IDS = 6  # padding, unknown and four letters
TEXT = np.random.default_rng(1).choice([2, 3, 4, 5], 400, p=[0.55, 0.25, 0.15, 0.05])


def expected(text, longest, context, least):
    """Returns the probability of each id after a context, by the definition, from short to long."""
    text, p = [int(n) for n in text], {n: 1 / (IDS - 2) for n in range(2, IDS)}
    grams = collections.Counter(
        tuple(text[n : n + longest]) for n in range(len(text) - longest + 1)
    )
    counts = {longest: grams}
    for length in range(longest - 1, 0, -1):
        befores = collections.defaultdict(set)
        for gram in counts[length + 1]:
            befores[gram[1:]].add(gram[0])
        counts[length] = {gram: len(before) for gram, before in befores.items()}
    for length in range(1, longest + 1):
        n = collections.Counter(counts[length].values())
        y = n[1] / max(n[1] + 2 * n[2], 1)
        discounts = {m: m - (m + 1) * y * n[m + 1] / max(n[m], 1) for m in (1, 2, 3)}
        if not all(0 < discounts[m] < m for m in discounts):
            discounts = {1: 0.5, 2: 1, 3: 1.5}
        after = {
            gram[-1]: count
            for gram, count in counts[length].items()
            if gram[:-1] == tuple(context)[len(context) - length + 1 :]
        }
        total = sum(after.values())
        if total:
            kept = {
                last: count for last, count in after.items() if length < longest or count >= least
            }
            shares = {
                last: (count - discounts[min(count, 3)]) / total for last, count in kept.items()
            }
            left = 1 - sum(shares.values())
            p = {n: shares.get(n, 0) + left * p[n] for n in p}
    return [p[n] for n in range(2, IDS)]


def adapted(longest=4, least=1, **kwargs):
    layer = KneserNey(IDS, longest, **kwargs)
    layer.adapt(TEXT, least=least)
    return layer


@pytest.mark.parametrize("longest, least", [(2, 1), (4, 1), (4, 2), (6, 2)])
def test_the_probabilities_are_those_of_the_definition(longest, least):
    layer = adapted(longest, least)
    contexts = [TEXT[n : n + longest - 1] for n in range(0, 60, 7)] + [[5] * (longest - 1)]
    newest_first = np.array([context[::-1] for context in contexts], "float32")
    found = np.exp(layer(newest_first[None]))[0]
    for context, row in zip(contexts, found, strict=True):
        np.testing.assert_allclose(row, expected(TEXT, longest, context, least), rtol=1e-5)


def test_probabilities_sum_to_one_where_no_id_came_before_and_after_unknown_ones():
    found = adapted()(np.array([[[0, 0, 0], [2, 0, 0], [1, 2, 3], [3, 1, 2]]], "int32"))
    np.testing.assert_allclose(np.exp(found).sum(-1), np.ones((1, 4)), rtol=1e-5)
    np.testing.assert_allclose(found[0, 0], found[0, 2], rtol=1e-5)  # neither has a context


def test_a_text_without_a_repeated_n_gram_is_read_by_shorter_ones():
    layer, text = KneserNey(IDS, 4), [2, 3, 4, 5, 5, 4, 3, 2]
    layer.adapt(text)
    assert layer.sizes[-1] == 0
    found = np.exp(layer(np.array([[[4, 3, 2]]])))[0, 0]
    np.testing.assert_allclose(found, expected(text, 4, [2, 3, 4], 2), rtol=1e-5)


def test_a_text_of_one_letter_leaves_something_to_the_others():
    layer = KneserNey(IDS, 3)
    layer.adapt(np.full(50, 2))
    found = np.asarray(layer(np.full((1, 1, 2), 2)))[0, 0]
    assert np.all(np.isfinite(found)) and found.argmax() == 0
    assert math.isclose(np.exp(found).sum(), 1, rel_tol=1e-5)


def test_a_model_with_the_layer_is_saved_and_loaded(tmp_path):
    given = np.array([[[301, 300, 299], [397, 396, 395]]], "float32")
    np.save(tmp_path / "given.npy", given)
    expected = {}
    for policy in ("float32", "mixed_bfloat16"):
        x = keras.Input((None, 3))
        layer = KneserNey(400, 4, dtype=policy)
        layer.adapt(np.tile(np.arange(2, 400), 3))  # ids that 16 bits would not hold
        model = keras.Model(x, layer(x))
        model.save(tmp_path / f"{policy}.keras")
        expected[policy] = model(given)
        assert not model.trainable_variables
    program = (
        "import pathlib, numpy as np, keras, keras_gated\n"
        "for path in pathlib.Path().glob('*.keras'):\n"
        "    model = keras.models.load_model(path)\n"
        "    np.save(path.stem, model(np.load('given.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    for policy, answer in expected.items():
        found = np.load(tmp_path / f"{policy}.npy")
        np.testing.assert_array_equal(found, answer)
        assert (found.argmax(-1) + 2).tolist() == [[302, 398]]


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match=r"more than fit into 64 bits\. Received: ids=70000"):
        KneserNey(70_000, 4)
    with pytest.raises(ValueError, match=r"one id as context\. Received: longest=1"):
        KneserNey(IDS, 1)
    with pytest.raises(ValueError, match="call `adapt`"):
        KneserNey(IDS, 3)(np.zeros((1, 1, 2)))
    for text, received in (([2, 3], "2 ids from 2 to 3"), ([], "0 ids"), ([2, 3, 6, 2], "2 to 6")):
        with pytest.raises(ValueError, match=rf"at least 3 ids, each from 2 to 5\. .*{received}"):
            KneserNey(IDS, 3).adapt(np.array(text))
    with pytest.raises(ValueError, match="has counted a text"):
        adapted().adapt(TEXT)


def test_a_batch_without_rows_has_an_answer_without_rows():
    assert adapted()(np.zeros((0, 5, 3))).shape == (0, 5, IDS - 2)


def test_probabilities_sum_to_one_where_keras_computes_in_double_precision():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        layer = KneserNey(4, longest=2)
        layer.adapt([2, 3, 2, 3, 3])
        p = np.exp(keras.ops.convert_to_numpy(layer(np.array([[[2], [3]]]))))
    finally:
        keras.config.set_floatx(before)
    assert p.dtype == "float32"
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("given", [
    [[2, 3, 4, 5], [2, 3, 4, 5], [5, 4, 3, 2]], [2.7, 3, 4, 5], [math.nan, 3, 4, 5], "abcd", None,
])  # fmt: skip
def test_a_text_that_is_no_row_of_ids_is_refused(given):
    with pytest.raises(ValueError, match=r"a text must be whole numbers, \(time,\)\. Received: s"):
        KneserNey(IDS, 3).adapt(given)


@pytest.mark.parametrize("sizes", [(2,), (-4,), (5.5,), ("5",), (None,), (5, 2.5)])
def test_sizes_that_are_no_numbers_of_ids_are_refused(sizes):
    with pytest.raises(ValueError, match=r"^KneserNey: `.*` must be at least .*\. Received: "):
        KneserNey(*sizes)


def test_a_context_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"must have 3 ids.*Received: context.shape=\(1, 3, 4\)"):
        adapted()(np.full((1, 3, 4), 2))
