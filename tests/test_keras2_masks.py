"""Masks that Keras 2 passes on by other rules than Keras 3: answers of `tf_keras`, or errors."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from keras_gated import from_keras

k2 = pytest.importorskip("tf_keras")
L = k2.layers
pytestmark = pytest.mark.usefixtures("loop_of_the_cell")


@pytest.fixture(autouse=True)
def names_begin_anew():
    k2.backend.clear_session()
    keras.backend.clear_session()


def ids(*shape):
    rng = np.random.default_rng(len(shape))
    return np.where(rng.random(shape) < 0.6, rng.integers(1, 9, shape), 0)


def vectors(*shape, seed=0):
    rng = np.random.default_rng(seed)
    kept = rng.random((*shape[:-1], 1)) < 0.6
    kept[:, :1] = True  # a row without a step has no mean
    return (rng.normal(size=shape) * kept).astype("float32")


def embedded(tensor):
    return L.Embedding(9, 3, mask_zero=True)(tensor)


def words_and_vectors(join):
    words, more = L.Input((4,)), L.Input((4, 3))
    x = join([embedded(words), more])
    return k2.Model([words, more], L.LSTM(2)(x)), ids(5, 4), vectors(5, 4, 3)


def two_masks(join):
    one, other = L.Input((4, 3)), L.Input((4, 3))
    x = L.Dropout(0.5)(join([L.Masking()(one), L.Masking()(other)]))
    x = L.Bidirectional(L.GRU(3, return_sequences=True))(x)
    outputs = L.GlobalAveragePooling1D()(x)
    return k2.Model([one, other], outputs), vectors(5, 4, 3), vectors(5, 4, 3, seed=1)


def after_a_mask(layer):
    inputs = L.Input((4, 3))
    return k2.Model(inputs, L.LSTM(2)(layer(L.Masking()(inputs)))), vectors(5, 4, 3)


def sequential(*layers, shape):
    given = ids(5, *shape) if isinstance(layers[0], L.Embedding) else vectors(5, *shape)
    return k2.Sequential([L.Input(shape), *layers]), given


def sentences_of_words():
    inputs = L.Input((3, 4))
    x = L.TimeDistributed(L.GRU(3))(embedded(inputs))
    return k2.Model(inputs, L.Bidirectional(L.GRU(2))(x)), ids(5, 3, 4)


def masks_made_at_every_step(layer, *shape, given):
    inputs = L.Input(shape)
    x = L.TimeDistributed(L.LSTM(3))(L.TimeDistributed(layer)(inputs))
    return k2.Model(inputs, L.LSTM(2)(x)), given


def residual():
    words = L.Input((4,))
    x = embedded(words)
    y = L.Add()([x, L.LSTM(3, return_sequences=True)(x)])
    y = L.Concatenate()([x, y, L.TimeDistributed(L.Dense(2))(y)])
    return k2.Model(words, L.GRU(2)(y)), ids(5, 4)


def attention():
    words, more, others = L.Input((4,)), L.Input((4, 3)), L.Input((5,))
    query = L.Add()([embedded(words), more])
    x = L.Concatenate()([query, L.Attention()([query, embedded(others)])])
    outputs = L.SimpleRNN(2)(x)
    return k2.Model([words, more, others], outputs), ids(5, 4), vectors(5, 4, 3), ids(5, 5)


def states_and_a_mask():
    words, more = L.Input((4,)), L.Input((4, 3))
    x = L.Maximum()([embedded(words), more])
    y, *states = L.LSTM(2, return_sequences=True, return_state=True)(x)
    outputs = L.LSTM(2)(L.Concatenate()([x, y]), initial_state=states)
    return k2.Model([words, more], outputs), ids(5, 4), vectors(5, 4, 3)


def a_model_that_is_given_the_mask():
    inputs, words = L.Input((4, 3)), L.Input((4,))
    inner = k2.Model(inputs, L.GRU(2)(L.Add()([inputs, L.Dense(3)(inputs)])))
    return k2.Model(words, inner(embedded(words))), ids(5, 4)


def residual_of_two_masks():
    one, other = L.Input((4,)), L.Input((4,))
    x = L.Add()([embedded(one), embedded(other)])
    return k2.Model([one, other], L.LSTM(2)(L.Add()([x, L.Dense(3)(x)]))), ids(5, 4), ids(5, 4)


def siamese():
    encoder = k2.Sequential([L.Input((4, 3)), L.LSTM(2)])
    one, other = L.Input((4,)), L.Input((4,))
    x = L.Concatenate()([encoder(embedded(one)), encoder(embedded(other))])
    return k2.Model([one, other], L.BatchNormalization()(x)), ids(5, 4), ids(5, 4)


def a_model_of_which_one_input_has_no_mask():
    i, j, words, more = L.Input((4, 3)), L.Input((4, 3)), L.Input((4,)), L.Input((4, 3))
    inner = k2.Model([i, j], L.Concatenate()([L.GRU(2)(i), L.LSTM(2)(j)]))
    outputs = inner([L.Rescaling(2.0)(embedded(words)), L.Masking()(more)])
    return k2.Model([words, more], outputs), ids(5, 4), vectors(5, 4, 3)


def two_axes_of_steps(layer, *more):
    inputs = L.Input((2, 3, 4))
    x = inputs if isinstance(layer, L.Embedding) else embedded(inputs)
    for one in (layer, *more):
        x = L.TimeDistributed(L.TimeDistributed(one))(x)
    x = L.TimeDistributed(L.LSTM(3))(x)
    return k2.Model(inputs, L.GRU(2)(x)), ids(5, 2, 3, 4)


def encoder(**arguments):
    words = L.Input((4,))
    outputs = L.GRU(3, return_sequences=True)(embedded(words))
    return k2.Model(words, outputs, **arguments)


def residual_after_a_model():
    words = L.Input((4,))
    x = encoder()(words)
    y = L.Concatenate()([x, L.Add()([x, L.Dense(3)(x)])])
    return k2.Model(words, L.LSTM(2)(y)), ids(5, 4)


def a_model_of_two_outputs():
    words, other = L.Input((4,)), L.Input((4,))
    x = embedded(words)
    inner = k2.Model(words, [x, L.GRU(3, return_sequences=True)(x)])
    return k2.Model(other, L.LSTM(2)(L.Add()(inner(other)))), ids(5, 4)


def a_model_that_is_given_one_mask_twice():
    i, j, words = L.Input((4, 3)), L.Input((4, 3)), L.Input((4,))
    inner = k2.Model([i, j], L.LSTM(2)(L.Add()([i, j])))
    x = embedded(words)
    return k2.Model(words, inner([x, L.Dense(3)(x)])), ids(5, 4)


def a_model_in_a_model_in_a_model():
    one, two, words = L.Input((4,)), L.Input((4,)), L.Input((4,))
    inner = k2.Model(one, encoder()(one))
    inner = k2.Model(two, inner(two))
    return k2.Model(words, L.LSTM(2)(inner(words))), ids(5, 4)


def a_mask_changed_in_a_model_and_not_read():
    inputs, outer = L.Input((4, 3)), L.Input((4, 3))
    inner = k2.Model(inputs, L.Rescaling(2.0)(L.Masking()(inputs)))
    return k2.Model(outer, L.Dense(2)(L.Flatten()(inner(outer)))), vectors(5, 4, 3)


CASES = {
    **{
        f"{name}: {make.__name__}": lambda name=name, make=make: make(getattr(L, name)())
        for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
        for make in (words_and_vectors, two_masks)
    },
    "Concatenate along the steps": lambda: two_masks(L.Concatenate(axis=1)),
    "Concatenate along the steps, from behind": lambda: two_masks(L.Concatenate(axis=-2)),
    "residual of two masks": residual_of_two_masks,
    "siamese": siamese,
    "a model of which one input has no mask": a_model_of_which_one_input_has_no_mask,
    "Identity": lambda: after_a_mask(L.Identity()),
    "Rescaling": lambda: after_a_mask(L.Rescaling(0.5, 0.1)),
    "Normalization": lambda: after_a_mask(L.Normalization(mean=[0.0, 1, 2], variance=[1.0, 2, 3])),
    "Rescaling, sequential": lambda: sequential(
        L.Masking(), L.Rescaling(2.0), L.LSTM(2), shape=(4, 3)
    ),
    "Dense at every step, sequential": lambda: sequential(
        L.Embedding(9, 3, mask_zero=True), L.TimeDistributed(L.Dense(2)), L.LSTM(2), shape=(4,)
    ),
    "sentences of words": sentences_of_words,
    "sentences of words, sequential": lambda: sequential(
        L.Embedding(9, 3, mask_zero=True), L.TimeDistributed(L.GRU(3)), L.LSTM(2), shape=(3, 4)
    ),
    "Embedding at every step": lambda: masks_made_at_every_step(
        L.Embedding(9, 3, mask_zero=True), 3, 4, given=ids(5, 3, 4)
    ),
    "Masking at every step": lambda: masks_made_at_every_step(
        L.Masking(), 3, 4, 2, given=vectors(5, 3, 4, 2)
    ),
    "a model at every step": lambda: sequential(
        L.Embedding(9, 3, mask_zero=True),
        L.TimeDistributed(k2.Sequential([L.Input((3,)), L.Dense(2)])),
        L.LSTM(2),
        shape=(4,),
    ),
    "residual": residual,
    "attention": attention,
    "states and a mask": states_and_a_mask,
    "a model that is given the mask": a_model_that_is_given_the_mask,
    "Embedding at two axes of steps": lambda: two_axes_of_steps(
        L.Embedding(9, 3, mask_zero=True), L.GRU(2)
    ),
    "GRU at two axes of steps": lambda: two_axes_of_steps(L.GRU(2)),
    "sequences at two axes of steps": lambda: two_axes_of_steps(
        L.GRU(2, return_sequences=True), L.Dense(3), L.LSTM(2)
    ),
    "residual after a model": residual_after_a_model,
    "a model of two outputs": a_model_of_two_outputs,
    "a model that is given one mask twice": a_model_that_is_given_one_mask_twice,
    "a model in a model in a model": a_model_in_a_model_in_a_model,
    "a mask changed in a model and not read": a_mask_changed_in_a_model_and_not_read,
}  # fmt: skip


def compared(theirs, ours, inputs):
    given = list(inputs) if len(inputs) > 1 else inputs[0]
    assert_allclose(ours(given), theirs(given, training=False), atol=1e-5)
    assert_allclose(ours.predict(given, verbose=0), theirs(given, training=False), atol=1e-5)


@pytest.mark.sampled
@pytest.mark.parametrize("name", CASES)
def test_a_layer_reads_the_mask_that_it_read_in_keras_2(name, tmp_path):
    theirs, *inputs = CASES[name]()
    theirs.save(tmp_path / "m.h5")
    ours = from_keras(tmp_path / "m.h5")
    compared(theirs, ours, inputs)
    ours.save(tmp_path / "new.keras")
    compared(theirs, keras.saving.load_model(tmp_path / "new.keras"), inputs)


def test_a_sequential_model_becomes_functional_only_where_a_layer_needs_a_mask():
    theirs, *_ = CASES["Dense at every step, sequential"]()
    assert isinstance(from_keras(theirs), keras.Sequential)
    theirs, *_ = CASES["Rescaling, sequential"]()
    assert not isinstance(from_keras(theirs), keras.Sequential)


def test_weights_are_read_into_a_model_that_was_given_masks(tmp_path):
    theirs, *inputs = CASES["Rescaling, sequential"]()
    theirs.save_weights(tmp_path / "w.h5")
    architecture = keras.models.clone_model(from_keras(theirs))
    compared(theirs, from_keras(tmp_path / "w.h5", architecture=architecture), inputs)


def test_nothing_is_added_where_all_masks_are_equal():
    theirs, *_ = residual()
    added = [one.name for one in from_keras(theirs).operations if "logical_and" in one.name]
    assert not added


class Doubled(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        return 2 * inputs


class DoubledToday(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        return 2 * inputs


def test_a_layer_of_the_caller_passes_the_mask_of_keras_2_on():
    words, more = L.Input((4,)), L.Input((4, 3))
    x = Doubled(name="mine")(L.Add()([embedded(words), more]))
    theirs = k2.Model([words, more], L.GRU(2)(x))
    ours = from_keras(theirs, custom_objects={"Doubled": DoubledToday})
    assert ours.get_layer("mine")
    compared(theirs, ours, [ids(5, 4), vectors(5, 4, 3)])


def test_a_mask_that_no_later_layer_reads_is_no_reason_to_refuse():
    words, more = L.Input((4,)), L.Input((4, 3))
    inner = k2.Model(words, L.GRU(3, return_sequences=True)(embedded(words)))
    encoded = L.TimeDistributed(L.Dense(2))(inner(words))
    joined = L.Dense(2)(L.Concatenate()([inner(words), L.Rescaling(2.0)(encoded), more]))
    outputs = [L.LSTM(2)(encoded), L.TimeDistributed(L.Dense(1))(joined)]
    theirs, given = k2.Model([words, more], outputs), [ids(5, 4), vectors(5, 4, 3)]
    ours = from_keras(theirs)
    for received, expected in zip(ours(given), theirs(given, training=False), strict=True):
        assert_allclose(received, expected, atol=1e-5)


def of_sentences():
    words = L.Input((4,))
    inner = k2.Model(words, L.GRU(3, return_sequences=True)(embedded(words)), name="inner")
    inputs = L.Input((3, 4))
    x = L.TimeDistributed(L.GRU(2))(L.TimeDistributed(inner, name="mine")(inputs))
    return k2.Model(inputs, x)


def of_a_mask_made_inside():
    words, more = L.Input((4,)), L.Input((4, 3))
    inner = k2.Model(words, L.GRU(3, return_sequences=True)(embedded(words)))
    return k2.Model([words, more], L.GRU(2, name="mine")(L.Add()([inner(words), more])))


def of_masks_of_two_kinds():
    words, more = L.Input((4,)), L.Input((4, 3))
    inner = k2.Model(words, L.GRU(3, return_sequences=True)(embedded(words)))
    query = L.Add()([embedded(words), more])
    return k2.Model([words, more], L.Attention(name="mine")([query, inner(words)]))


def of_a_mask_dropped_inside():
    inputs, words = L.Input((4, 3)), L.Input((4,))
    inner = k2.Model(inputs, L.GRU(2)(L.Rescaling(2.0)(inputs)), name="mine")
    return k2.Model(words, inner(embedded(words)))


def of_a_mask_dropped_inside_a_sequence():
    inner = k2.Sequential([L.Input((4, 3)), L.Rescaling(2.0), L.GRU(2)], name="mine")
    return k2.Sequential([L.Input((4, 3)), L.Masking(), inner])


def of_outputs_inside():
    inputs = L.Input((4, 3))
    inner = k2.Model(inputs, L.Rescaling(2.0)(L.Masking()(inputs)), name="mine")
    outer = L.Input((4, 3))
    return k2.Model(outer, L.GRU(2)(inner(outer)))


def of_two_masks_made_inside():
    inner, one, other = encoder(name="mine"), L.Input((4,)), L.Input((4,))
    x = L.Add()([inner(one), inner(other)])
    return k2.Model([one, other], L.GRU(2)(x))


def of_a_mask_made_two_models_below():
    words, more, other = L.Input((4,)), L.Input((4, 3)), L.Input((4,))
    inner = k2.Model(words, encoder(name="mine")(words))
    return k2.Model([other, more], L.GRU(2)(L.Add()([inner(other), more])))


@pytest.mark.parametrize(
    "make",
    [
        of_sentences,
        of_a_mask_made_inside,
        of_masks_of_two_kinds,
        of_a_mask_dropped_inside,
        of_a_mask_dropped_inside_a_sequence,
        of_outputs_inside,
        of_two_masks_made_inside,
        of_a_mask_made_two_models_below,
    ],
)
def test_a_mask_that_keras_3_cannot_be_given_is_an_error(make):
    with pytest.raises(ValueError, match=r"'mine'.*another mask|'mine'.*masks.*other rules"):
        from_keras(make())
