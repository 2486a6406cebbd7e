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
