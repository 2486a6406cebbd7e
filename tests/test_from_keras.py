"""Models of keras.layers as ours and back: the same answers, gradients, training and names."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import FAMILIES, MASKS, mask_array, set_random
from keras import layers
from numpy.testing import assert_allclose, assert_array_equal

import keras_gated
from keras_gated import from_keras, to_keras
from keras_gated.convert import keras_layers

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

X = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
IDS = np.array([[3, 4, 5, 0, 0, 0], [0, 0, 7, 1, 2, 9], [5, 6, 0, 7, 0, 8], [1, 2, 3, 4, 5, 6]])


def answers(layer, x, **call):
    """Outputs, final states, and gradients by the inputs and by every weight."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        results = tf.nest.flatten(layer(x, **call))
        loss = tf.add_n([tf.reduce_sum(tf.sin(r)) for r in results])
    return results, tape.gradient(loss, [x, *layer.trainable_variables])


def assert_same(a, b, atol=1e-6):
    for one, other in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
        assert_allclose(one, other, atol=atol)


def with_z_as_in(family, gradients):
    x, *weights = gradients
    return [x, *family.convert([np.asarray(w) for w in weights])]


@pytest.mark.sampled
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_layer_of_keras_and_ours_agree_under_every_mask(name, mask):
    family = FAMILIES[name]
    theirs = family.make_keras(4, return_sequences=True, return_state=True, name="mine")
    theirs.build(X.shape)
    set_random(theirs)
    call = {} if mask == "no mask" else {"mask": mask_array(mask)}
    results, gradients = answers(theirs, X, **call)
    ours = from_keras(theirs)
    assert type(ours) is family.layer and ours.name == "mine"
    own_results, own_gradients = answers(ours, X, **call)
    if mask in ("no mask", "right padding"):
        assert_same(own_results, results)
    else:  # a step masked at the start is zero here and the initial output there
        assert_same(own_results[1:], results[1:])
    if mask == "no mask":
        assert_same(with_z_as_in(family, own_gradients), gradients, 5e-6)
    back = to_keras(ours)
    assert type(back) is family.keras_layer
    assert all(
        (a == b).all() for a, b in zip(back.get_weights(), theirs.get_weights(), strict=True)
    )
    assert back.get_config() == theirs.get_config()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cell_of_keras_and_ours_agree(name):
    family = FAMILIES[name]
    theirs = family.keras_cell(4, **family.options)
    theirs.build((None, 2))
    set_random(theirs)
    ours = from_keras(theirs)
    assert type(ours) is family.cell
    states = [np.random.default_rng(2).normal(size=(3, 4)) for _ in range(family.states)]
    states = [s.astype("float32") for s in states]
    assert_same(ours(X[:, 0], states), theirs(X[:, 0], states))
    assert type(to_keras(ours)) is family.keras_cell


def whole_model():
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(20, 6, mask_zero=True, name="words")(ids)
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True, dropout=0.2, seed=7), name="b")(x)
    cells = [layers.LSTMCell(4), layers.GRUCell(3, reset_after=False)]
    x = layers.RNN(layers.StackedRNNCells(cells), return_sequences=True, name="stack")(x)
    x = layers.TimeDistributed(layers.Dense(4), name="each")(x)
    x, memory, _ = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(x)
    x = layers.SimpleRNN(3, name="last")(x)
    outputs = {"y": layers.Dense(2, name="y")(x), "memory": memory}
    model = keras.Model(ids, outputs, name="mine")
    set_random(model)
    model.compile(keras.optimizers.Adam(0.01), {"y": "mse", "memory": "mae"})
    return model


TARGETS = {"y": np.ones((4, 2)), "memory": np.zeros((4, 4))}


@pytest.mark.slow
def test_a_whole_model_is_converted_with_names_masks_and_what_compile_said():
    theirs = whole_model()
    ours = from_keras(theirs)
    assert ours.name == "mine" and [a.name for a in ours.layers] == [a.name for a in theirs.layers]
    assert [v.path for v in ours.weights] == [v.path for v in theirs.weights]
    kinds = {a.name: type(a) for a in ours.layers}
    assert kinds["b"] is keras_gated.Bidirectional and kinds["lstm"] is keras_gated.LSTM
    assert kinds["words"] is layers.Embedding
    assert_same(ours(IDS), theirs(IDS))
    assert ours.evaluate(IDS, TARGETS, verbose=0) == pytest.approx(
        theirs.evaluate(IDS, TARGETS, verbose=0), abs=1e-6
    )
    back = to_keras(ours)
    assert_same(back(IDS), theirs(IDS))
    assert all(
        (a == b).all() for a, b in zip(back.get_weights(), theirs.get_weights(), strict=True)
    )


def test_what_a_model_normalizes_by_comes_along():
    normalization = layers.Normalization()
    normalization.adapt(3 * X + 1)
    x = keras.Input((None, 2))
    theirs = keras.Model(x, layers.SimpleRNN(2)(normalization(x)))
    assert_same(from_keras(theirs)(X), theirs(X))


OPTIMIZERS = {
    "Adam": {"amsgrad": True, "use_ema": True},
    "AdamW": {},
    "Nadam": {},
    "Adamax": {},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "SGD": {"momentum": 0.9},
    "Adagrad": {},
    "Adadelta": {},
    "Ftrl": {},
    "Lion": {},
}


@pytest.mark.sampled
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_after_a_conversion_as_if_there_had_been_none(optimizer):
    ids = keras.Input((None,), dtype="int32")
    x = layers.GRU(4, dropout=0.3, seed=1)(layers.Embedding(20, 3)(ids))
    theirs = keras.Model(ids, layers.Dense(1)(x))
    set_random(theirs)
    theirs.compile(
        getattr(keras.optimizers, optimizer)(0.01, **OPTIMIZERS[optimizer]),
        "mse",
        run_eagerly=optimizer != "Adam",  # one function is enough
    )
    y = np.ones((4, 1))
    theirs.fit(IDS, y, epochs=2, shuffle=False, verbose=0)
    ours = from_keras(theirs)
    for model in (theirs, ours):
        model.fit(IDS, y, epochs=3, shuffle=False, verbose=0)
    assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations) == 5
    assert_same(ours(IDS), theirs(IDS), 1e-5)


def test_states_of_stateful_layers_come_along():
    inputs = keras.Input(batch_shape=(3, None, 2))
    theirs = keras.Sequential([inputs, layers.GRU(4, stateful=True)])
    theirs(X)
    ours = from_keras(theirs)
    assert isinstance(ours, keras.Sequential)
    assert_same(ours(X), theirs(X))


def test_a_nested_model_and_a_layer_that_is_called_twice_stay_what_they_are():
    inner = keras.Sequential([keras.Input((None, 2)), layers.LSTM(3, name="inside")], name="inner")
    a, b = keras.Input((None, 2)), keras.Input((None, 2))
    theirs = keras.Model([a, b], layers.Add()([inner(a), inner(b)]))
    ours = from_keras(theirs)
    assert len(ours.trainable_variables) == 3
    assert type(ours.get_layer("inner").get_layer("inside")) is keras_gated.LSTM
    assert_same(ours([X, -X]), theirs([X, -X]))


def test_what_differs_is_refused_by_name():
    x = keras.Input((None, 2))
    h0 = keras.Input((4,))
    masked = layers.Masking()(x)
    with pytest.raises(ValueError, match=r"'told'.*initial state and sequences with a mask"):
        from_keras(keras.Model([x, h0], layers.GRU(4, name="told")(masked, initial_state=h0)))
    with pytest.raises(ValueError, match=r"kernel_constraint.*complement.*NonNeg"):
        from_keras(layers.GRU(4, kernel_constraint="non_neg"))
    with pytest.raises(ValueError, match=r"recurrent_activation.*'relu'"):
        from_keras(layers.GRU(4, recurrent_activation="relu"))
    with pytest.raises(ValueError, match="return_gates=True"):
        to_keras(keras_gated.GRU(4, return_gates=True))
    with pytest.raises(ValueError, match=r"drops weights.*recurrent_weight_dropout=0\.5"):
        to_keras(keras_gated.LSTM(4, recurrent_weight_dropout=0.5))
    with pytest.raises(ValueError, match=r"'mine' has an `activity_regularizer`.*SimpleRNN` drops"):
        to_keras(keras_gated.SimpleRNN(4, activity_regularizer="l2", name="mine"))
    with pytest.raises(ValueError, match=r"nothing to convert in 'plain'"):
        from_keras(layers.Dense(4, name="plain"))
    with pytest.raises(ValueError, match=r"must be a Keras layer or model\. Received: 3"):
        to_keras(3)

    class OfMyOwn(keras.Model):
        def __init__(self):
            super().__init__()
            self.recurrent = layers.LSTM(3)

    with pytest.raises(ValueError, match="functional or sequential"):
        from_keras(OfMyOwn())


def test_an_unbuilt_layer_keeps_its_arguments():
    theirs = layers.LSTM(3, kernel_regularizer="l2", recurrent_dropout=0.1, go_backwards=True)
    ours = from_keras(theirs)
    assert not ours.built and ours.go_backwards and ours.recurrent_dropout == 0.1
    assert to_keras(ours).get_config() == theirs.get_config()


@pytest.mark.parametrize("convert, module", [
    (keras_gated.from_keras, keras.layers), (keras_gated.to_keras, keras_gated),
])  # fmt: skip
def test_a_mask_behind_a_layer_that_reads_backwards_is_refused_where_it_is_read(convert, module):
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(5, 2, mask_zero=True)(ids)
    x = module.LSTM(3, go_backwards=True, return_sequences=True)(x)
    alone = convert(keras.Model(ids, keras.layers.Dense(2)(x)))
    assert alone.output.shape == (None, None, 2)
    model = keras.Model(ids, module.LSTM(3)(keras.layers.Dropout(0.1)(x)))
    with pytest.raises(ValueError, match=r"reads backwards under a mask.*later layer"):
        convert(model)


@keras.saving.register_keras_serializable("tests")
class Renamed(layers.LSTM):
    """Of another name, and with an argument that says nothing about the equations."""

    def __init__(self, units, note="", **kwargs):
        super().__init__(units, activation="relu", **kwargs)
        self.note = note

    def get_config(self):
        config = super().get_config()
        del config["activation"]  # the constructor says it
        return {**config, "activation": "relu", "note": self.note}

    @classmethod
    def from_config(cls, config):
        config.pop("activation")
        return cls(**config)

    def described(self):
        return f"{self.note}: {self.units}"


@keras.saving.register_keras_serializable("tests")
class Doubled(layers.GRU):
    def call(self, sequences, initial_state=None, mask=None, training=False):
        return 2 * super().call(sequences, initial_state, mask, training)


class OddCell(layers.LSTMCell):
    def call(self, inputs, states, training=False):
        return super().call(inputs * 2, states, training)


class PlainCell(layers.GRUCell):
    """As it is."""


class Both(layers.Bidirectional):
    """As it is, too."""


class Weighed(layers.SimpleRNN):
    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.cell = OddCell(units)


class Silent(layers.LSTM):
    def get_config(self):
        return {"units": self.units, "name": self.name}


@pytest.mark.parametrize("make", [
    lambda: Renamed(4, note="mine"),
    lambda: layers.Bidirectional(Renamed(4, return_sequences=True)),
    lambda: Both(layers.GRU(4)),
    lambda: layers.RNN(PlainCell(4)),
    lambda: layers.RNN(layers.StackedRNNCells([PlainCell(3), layers.LSTMCell(4)])),
], ids=["layer", "inside", "wrapper", "cell", "stacked"])  # fmt: skip
def test_a_subclass_that_changes_nothing_is_converted(make):
    theirs = keras.Sequential([keras.Input((None, 2)), make()])
    set_random(theirs)
    ours = from_keras(theirs)
    assert_same(ours(X), theirs(X))
    own = (Renamed, PlainCell, Both)
    parts = list(ours._flatten_layers())
    assert not any(isinstance(part, own) for part in parts)
    assert any(type(part).__module__.startswith("keras_gated.") for part in parts)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("both", [False, True], ids=["", "both directions"])
def test_the_layer_around_a_single_cell_is_converted_with_its_cell(name, both):
    family = FAMILIES[name]
    around = layers.RNN(family.make_keras(4).cell, return_sequences=True, name="mine")
    theirs = layers.Bidirectional(around) if both else around
    model = keras.Sequential([keras.Input((None, 2)), layers.Masking(), theirs])
    set_random(model)
    ours = from_keras(model)
    parts = [part for part in ours._flatten_layers() if isinstance(part, layers.RNN)]
    assert {type(part) for part in parts} == {keras_gated.RNN}
    assert_same(ours(X), model(X))
    back = to_keras(ours)
    parts = [part for part in back._flatten_layers() if isinstance(part, layers.RNN)]
    assert {type(part) for part in parts} == {layers.RNN}
    assert_array_equal(back(X), model(X))
    assert type(from_keras(layers.RNN(layers.LSTMCell(4)))) is keras_gated.RNN


@pytest.mark.parametrize("both", [False, True], ids=["", "both directions"])
def test_a_layer_of_keras_around_a_cell_of_ours_gets_a_cell_of_keras(both):
    around = layers.RNN(keras_gated.GRUCell(4), return_sequences=True)
    around = layers.Bidirectional(around) if both else around
    ours = keras.Sequential([keras.Input((None, 2)), around])
    set_random(ours)
    theirs = to_keras(ours)
    assert_same(theirs(X), ours(X))
    parts = [part for part in theirs._flatten_layers() if isinstance(part, layers.RNN)]
    assert {type(part) for part in parts} == {layers.RNN}
    assert {type(part.cell) for part in parts} == {layers.GRUCell}


@pytest.mark.parametrize("make, name, changed", [
    (lambda: Doubled(4, name="told"), "told", "a Doubled, a subclass of GRU that changes it: call"),
    (lambda: layers.Bidirectional(Doubled(4, name="told")), "ward_told", "Doubled.*call"),
    (lambda: layers.RNN(OddCell(4, name="told")), "told", "OddCell, a subclass of LSTMCell.*call"),
    (lambda: Weighed(4, name="told"), "told", "cell, a OddCell"),
    (lambda: Silent(4, name="told", activation="relu"), "told", "activation in get_config"),
], ids=["layer", "inside", "cell", "a cell of its own", "config"])  # fmt: skip
def test_a_subclass_that_changes_something_is_named(make, name, changed):
    """Alone, and in a model with a layer that could be converted."""
    message = f"^from_keras: '[a-z_]*{name}'.*{changed}"
    with pytest.raises(ValueError, match=message):
        from_keras(make())
    alone = keras.Sequential([keras.Input((None, 2)), make()])
    with pytest.raises(ValueError, match=message):
        from_keras(alone)
    before = layers.LSTM(2, return_sequences=True)
    with pytest.raises(ValueError, match=message):
        from_keras(keras.Sequential([keras.Input((None, 2)), before, make()]))


@pytest.mark.sampled
@pytest.mark.parametrize("what", ["model", "layer", "cell", "stateful"])
def test_a_conversion_tells_the_largest_difference_that_it_saw(what, capsys):
    keras.utils.set_random_seed(0)
    gru = keras.layers.GRU(4, stateful=what == "stateful", return_sequences=True)
    if what == "cell":
        theirs = keras.layers.GRUCell(4)
        theirs.build((None, 3))
    elif what == "layer":
        theirs = gru
        theirs.build((None, None, 3))
    elif what == "stateful":
        theirs = keras.Sequential([keras.Input((5, 3), batch_size=2), gru])
        theirs(np.ones((2, 5, 3), "float32"))
    else:
        ids = keras.Input((None,), dtype="int32")
        x = keras.layers.Embedding(9, 3, mask_zero=True)(ids)
        theirs = keras.Model(ids, keras.layers.Bidirectional(gru)(x))
    state = gru.states[0].numpy() if what == "stateful" else None
    from_keras(theirs, check=True)
    told = capsys.readouterr().out
    assert told.startswith("from_keras: the largest difference from the original is ")
    assert float(told.split()[8]) < 1e-5
    if state is not None:
        assert_array_equal(gru.states[0], state)


def test_a_check_wants_weights_and_finds_what_differs(monkeypatch):
    with pytest.raises(ValueError, match=r"`check=True` asks a layer that has weights"):
        from_keras(keras.layers.GRU(3), check=True)
    theirs = keras.layers.LSTM(3)
    theirs.build((None, None, 2))
    monkeypatch.setattr(  # the weights are not copied
        keras_layers, "_copy_weights", lambda old, new: new.build((None, None, 2))
    )
    with pytest.raises(ValueError, match=r"answers otherwise than the original, by .*1e-04"):
        from_keras(theirs, check=True)


def fitted(*stack, loss="mse", optimizer="adam"):
    model = keras.Sequential([keras.Input((None, 2)), *stack])
    model.compile(optimizer, loss)
    model.fit(X, np.ones((3, 1)), verbose=0)
    return model


def test_what_a_layer_learned_by_adapt_comes_along():
    texts, numbers = ["a b c", "d e a"], np.array([[5], [7], [9]])
    words, known = layers.TextVectorization(output_sequence_length=4), layers.IntegerLookup()
    words.adapt(texts)
    known.adapt(numbers)
    text, number = keras.Input((), dtype="string"), keras.Input((1,), dtype="int64")
    x = layers.GRU(3)(layers.Embedding(10, 3, mask_zero=True)(words(text)))
    y = layers.Flatten()(layers.Embedding(9, 2)(known(number)))
    model = keras.Model([text, number], layers.Concatenate()([x, y]))
    given = [tf.constant(["a d", "c x"]), tf.constant([[7], [6]])]
    assert_allclose(from_keras(model)(given), model(given), atol=1e-6)


def test_an_optimizer_that_scales_the_loss_comes_along():
    keras.config.set_dtype_policy("mixed_float16")
    model = fitted(layers.LSTM(3), layers.Dense(1, dtype="float32"))
    ours = from_keras(model)
    names = [variable.name for variable in model.optimizer.variables]
    assert "dynamic_scale" in names and names == [v.name for v in ours.optimizer.variables]
    for one, other in zip(ours.optimizer.variables, model.optimizer.variables, strict=True):
        assert_array_equal(one, other)
    ours.fit(X, np.ones((3, 1)), verbose=0)


def test_an_optimizer_comes_along_if_a_layer_was_frozen_since():
    model = fitted(layers.LSTM(3, name="base"), layers.Dense(1))
    model.get_layer("base").trainable = False
    ours = from_keras(model)
    assert len(ours.trainable_variables) == 2
    for one, other in zip(ours.optimizer.variables, model.optimizer.variables, strict=True):
        assert one.shape == other.shape
        assert_array_equal(one, other)


@pytest.mark.parametrize("thawed", [False, True])
def test_what_is_frozen_in_a_model_stays_frozen(thawed):
    both = layers.Bidirectional(layers.GRU(2, return_sequences=True))
    cell = layers.GRUCell(2)
    model = keras.Sequential([keras.Input((None, 2)), both, layers.RNN(cell), layers.Dense(1)])
    cell.kernel.trainable = False
    both.backward_layer.cell.trainable = False
    if thawed:  # a cell in a frozen layer
        both.forward_layer.trainable = False
        both.forward_layer.cell.trainable = True
    model.compile("adam", "mse")
    ours = from_keras(model)
    for copy in (ours, to_keras(ours)):
        assert [w.path for w in copy.trainable_weights] == [w.path for w in model.trainable_weights]
    before = ours.get_weights()
    ours.fit(X, np.ones((3, 1)), verbose=0)
    for weight, old in zip(ours.weights, before, strict=True):
        assert np.array_equal(weight, old) is not weight.trainable, weight.path
    model.trainable = False
    both.trainable = True  # Keras trains nothing of a frozen model
    assert from_keras(model).trainable_weights == model.trainable_weights == []


def test_a_cell_or_layer_that_several_layers_were_given_is_named():
    cell, layer = layers.GRUCell(2, name="told"), layers.LSTM(2, name="told", return_sequences=True)
    x, y = keras.Input((None, 2)), keras.Input((None, None, 2))
    several = [
        keras.Model(x, layers.RNN(cell)(layers.RNN(cell, return_sequences=True)(x))),
        keras.Model([x, y], [layer(x), layers.TimeDistributed(layer)(y)]),
        layers.StackedRNNCells([cell, cell]),
    ]
    for given in several:
        with pytest.raises(ValueError, match=r"from_keras: .*share its weights.*\['.*told"):
            from_keras(given)
    assert from_keras(keras.Model(x, layer(layer(x)))).count_params() == 40
    model = keras.Model(x, layer(x))
    model.helper = layers.Dense(1, name="beside")
    with pytest.raises(ValueError, match=r"that its config does not make.*\['beside'\]"):
        from_keras(model)


def test_a_lambda_of_compile_is_refused():
    model = fitted(layers.LSTM(1))
    for given in ({"loss": lambda a, b: abs(a - b)}, {"metrics": [lambda a, b: abs(a - b)]}):
        model.compile("adam", **given)
        with pytest.raises(ValueError, match=r"from_keras: .*compiled with a lambda.*def"):
            from_keras(model)


def of_my_own(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 2)


class OfMyOwn(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return of_my_own(y_true, y_pred)


@pytest.mark.parametrize("loss", [of_my_own, OfMyOwn()])
def test_a_loss_of_ones_own_comes_along(loss):
    ours = from_keras(fitted(layers.LSTM(1), loss=loss))
    ours.fit(X, np.ones((3, 1)), verbose=0)


class Twice(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


class Trains(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


class Named(keras.Sequential):
    """Changes nothing."""


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("cls, method", [(Twice, "call"), (Trains, "train_step")])
def test_code_of_a_sequential_model_that_would_be_lost_is_named(cls, method, inside):
    model = cls([keras.Input((None, 2)), layers.LSTM(3)], name="mine")
    if inside:
        x = keras.Input((None, 2))
        model = keras.Model(x, layers.Dense(1)(model(x)))
    with pytest.raises(ValueError, match=f"'mine' is a {cls.__name__}.* has {method} of its own"):
        from_keras(model)
    from_keras(Named([keras.Input((None, 2)), layers.LSTM(3)]))


class Holds(keras.layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.GRU(3, name="inner")

    def call(self, inputs):
        return self.inner(inputs)


def test_a_recurrent_layer_that_another_layer_makes_is_named():
    model = keras.Sequential([keras.Input((None, 2)), Holds(), layers.Dense(1)])
    with pytest.raises(ValueError, match="'inner', a GRU, stays what it is"):
        from_keras(model)


def test_a_check_accepts_the_rounding_of_the_least_precise_layer(capsys):
    keras.config.set_dtype_policy("mixed_bfloat16")
    stack = [layers.LSTM(16, return_sequences=True), layers.LSTM(16), layers.Dense(3)]
    keras.config.set_dtype_policy("float32")
    from_keras(keras.Sequential([keras.Input((None, 2)), *stack]), check=True)
    assert "the largest difference" in capsys.readouterr().out


def test_a_recurrent_layer_that_stays_beside_others_is_named_in_a_warning():
    stack = [layers.LSTM(3, return_sequences=True, name="outer"), Holds(), layers.Dense(1)]
    model = keras.Sequential([keras.Input((None, 2)), *stack])
    with pytest.warns(UserWarning, match="'inner', a GRU, stays what it is"):
        ours = from_keras(model)
    assert type(ours.get_layer("outer")) is keras_gated.LSTM
    assert_allclose(ours(X), model(X), atol=1e-6)


def test_what_was_learned_before_the_model_was_built_comes_along():
    words = layers.TextVectorization(output_sequence_length=4)
    words.adapt(["a b c", "d e a"])
    stack = [words, layers.Embedding(10, 3, mask_zero=True), layers.GRU(3)]
    ours = from_keras(keras.Sequential(stack))
    assert ours.layers[0].get_vocabulary() == words.get_vocabulary()


def test_learned_weights_of_words_are_refused():
    words = layers.TextVectorization(output_mode="tf_idf")
    words.adapt(["a b c", "d e a"])
    text, x = keras.Input((), dtype="string"), keras.Input((None, 2))
    model = keras.Model([text, x], [words(text), layers.GRU(3)(x)])
    with pytest.raises(ValueError, match=r"^from_keras: .* Received: output_mode='tf_idf'"):
        from_keras(model)


def test_an_optimizer_of_weights_that_are_gone_is_refused():
    model = fitted(layers.LSTM(3), layers.Dense(1))
    model.pop()
    model.add(layers.Dense(1))
    with pytest.raises(ValueError, match="not in the model any more"):
        from_keras(model)
