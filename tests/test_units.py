"""Units that track a property: found where they were put, and told from those that do by chance."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import find_units, trace_gates


def counting_model():
    """Unit 2 of the first layer counts the 1s it reads; the other units are random and small."""
    ids = keras.Input((None,), name="ids")
    counter = keras_gated.LSTM(4, name="counter", return_sequences=True)
    both = keras_gated.Bidirectional(keras_gated.GRU(3), name="both")
    model = keras.Model(ids, both(counter(keras.layers.Embedding(3, 2, name="embedding")(ids))))
    model.get_layer("embedding").set_weights([np.array([[0, 0], [1, 0], [0, 1]], "float32")])
    kernel, recurrent, bias = (w.copy() for w in counter.get_weights())
    recurrent[:] = 0
    at = {gate: 4 * place + 2 for place, gate in enumerate(("input", "forget", "candidate"))}
    kernel[:, list(at.values())] = 0
    kernel[0, at["candidate"]] = 0.1  # tanh(0.1) for a 1
    bias[at["input"]], bias[at["forget"]] = 50, 50  # all goes in, and all is kept
    counter.set_weights([kernel, recurrent, bias])
    return model


def test_a_unit_that_counts_is_found_first_with_its_correlation():
    model = counting_model()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (9, 30))
    ones = np.cumsum(x == 1, axis=1)
    first, second, *_ = find_units(model, x, ones, batch_size=2)
    assert (first.layer, first.unit) == ("counter", 2)
    assert first.correlation == pytest.approx(1, abs=1e-5)
    assert first.held_out == pytest.approx(1, abs=1e-5)
    assert abs(second.correlation) < 0.95
    [other, *_] = find_units(model, x, -ones)
    assert (other.layer, other.unit) == ("counter", 2)
    assert other.correlation == pytest.approx(-1, abs=1e-5)


@pytest.mark.sampled
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_correlations_are_those_of_numpy_over_the_steps_that_count(batch_size):
    model = counting_model()
    rng = np.random.default_rng(1)
    x, values = rng.integers(0, 3, (7, 12)), rng.normal(size=(7, 12))
    values[:, 9:] = np.nan
    traces = trace_gates(model, x)
    memories = {
        "counter": traces["counter"]["memory"],
        "both/forward": traces["both"]["forward"]["hidden"],
        "both/backward": traces["both"]["backward"]["hidden"],
    }
    found = find_units(model, x, values, top=100, batch_size=batch_size)
    assert len(found) == 4 + 3 + 3
    assert [abs(u.correlation) for u in found] == sorted(
        (abs(u.correlation) for u in found), reverse=True
    )
    for unit in found:
        memory = memories[unit.layer].numpy()[..., unit.unit]
        for half, correlation in enumerate((unit.correlation, unit.held_out)):
            own = [a[half::2, :9].ravel() for a in (memory, values)]
            assert_allclose(correlation, np.corrcoef(*own)[0, 1], atol=1e-6)


def test_a_layer_can_be_asked_for_and_what_says_nothing_is_refused():
    model, x = counting_model(), np.random.default_rng(2).integers(0, 3, (4, 6))
    assert {u.layer for u in find_units(model, x, x, layer="counter")} == {"counter"}
    with pytest.raises(ValueError, match="no recurrent layer 'count'"):
        find_units(model, x, x, layer="count")
    with pytest.raises(ValueError, match=r"\(rows, time\) = \(4, 6\).*\(4, 5\)"):
        find_units(model, x, x[:, :5])
    with pytest.raises(ValueError, match="the same at every step"):
        find_units(model, x, np.ones((4, 6)))


def small_model(layer=None):
    inputs = keras.Input((None, 2))
    return keras.Model(inputs, (layer or keras_gated.SimpleRNN(3, name="r"))(inputs))


def numbers(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape)


def test_a_layer_is_given_by_the_name_that_is_printed_or_itself():
    both = keras_gated.Bidirectional(keras_gated.SimpleRNN(3), name="both")
    model, x, values = small_model(both), numbers(4, 5, 2), numbers(4, 5, seed=4)
    for layers, count in ((("both", both), 6), (("both/forward", both.forward_layer), 3)):
        for layer in layers:
            found = find_units(model, x, values, layer=layer)
            assert len(found) == count
            assert {u.layer for u in found} <= {"both/forward", "both/backward"}
    assert len(find_units(both, x, values)) == 6


def test_numbers_that_are_not_finite_are_refused_where_they_count():
    model, x, values = small_model(), numbers(4, 5, 2), numbers(4, 5, seed=4)
    values[1, 0] = np.inf
    with pytest.raises(ValueError, match=r"`values` must hold finite numbers.*to inf"):
        find_units(model, x, values)
    values[1, 0] = 0.5
    x[2, 3] = np.nan
    with pytest.raises(ValueError, match="the memory of 'r' holds NaN or infinity"):
        find_units(model, x, values)
    values[2, 3:] = np.nan  # as padding
    assert all(np.isfinite(u[2:]).all() for u in find_units(model, x, values))


def test_values_far_from_zero_keep_their_digits():
    """A correlation does not change if the same number is added everywhere."""
    model, x = small_model(), numbers(6, 8, 2)
    seconds = np.cumsum(np.random.default_rng(0).integers(0, 3, (6, 8)), axis=1)
    near, far = (find_units(model, x, seconds + start) for start in (0, 1_700_000_000))
    assert [u.unit for u in near] == [u.unit for u in far]
    assert_allclose([u[2:] for u in far], [u[2:] for u in near], atol=1e-9)


def test_a_model_may_have_several_inputs_or_a_dict_of_them():
    a, b = keras.Input((None, 2), name="a"), keras.Input((None, 2), name="b")
    of_a, of_b = (keras_gated.SimpleRNN(2, name=f"of_{x.name}")(x) for x in (a, b))
    model = keras.Model([a, b], keras.layers.Add()([of_a, of_b]))
    by_name = keras.Model({"a": a, "b": b}, model.output)
    x, y, values = numbers(4, 5, 2), numbers(4, 7, 2, seed=4), numbers(4, 5, seed=5)
    memory = trace_gates(model, [x, y])["of_a"]["hidden"].numpy()
    for m, inputs in ((model, [x, y]), (model, (x, y)), (by_name, {"a": x, "b": y})):
        for unit in find_units(m, inputs, values, layer="of_a", batch_size=3):
            for half, correlation in enumerate((unit.correlation, unit.held_out)):
                own = [array[half::2].ravel() for array in (memory[..., unit.unit], values)]
                assert_allclose(correlation, np.corrcoef(*own)[0, 1], atol=1e-6)
        with pytest.raises(ValueError, match=r"\(rows, time\) = \(4, 7\) for 'of_b'.*\(4, 5\)"):
            find_units(m, inputs, values)
        with pytest.raises(ValueError, match=r"as many rows.*\(4, 5\).*\(4, 7, 2\)"):
            find_units(m, [x[:3], y] if m is model else {"a": x[:3], "b": y}, values)


def test_steps_are_those_of_the_layers():
    """Words are the steps of a text; a layer behind a cut of the time axis has fewer."""
    texts = keras.Input((1,), dtype="string")
    words = keras.layers.TextVectorization(8, vocabulary=["a", "b", "c", "d"])(texts)
    hidden = keras_gated.SimpleRNN(3)(keras.layers.Embedding(8, 2)(words))
    model = keras.Model(texts, hidden)
    assert len(find_units(model, [["a b c"], ["c d a"]], [[1, 2, 3], [3, 2, 5]])) == 3
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, keras_gated.SimpleRNN(3, name="half")(inputs[:, ::2]))
    x = numbers(4, 6, 2)
    assert len(find_units(model, x, numbers(4, 3))) == 3
    with pytest.raises(ValueError, match=r"\(4, 3\) for 'half'. Received: values.shape=\(4, 6\)"):
        find_units(model, x, numbers(4, 6))


@pytest.mark.parametrize("sizes", [
    {"batch_size": 0}, {"batch_size": -1}, {"batch_size": 2.5}, {"top": -1}, {"top": True},
], ids=str)  # fmt: skip
def test_sizes_must_be_positive_integers(sizes):
    [name] = sizes
    with pytest.raises(ValueError, match=f"find_units: `{name}` must be a positive integer"):
        find_units(small_model(), numbers(4, 5, 2), numbers(4, 5), **sizes)
