"""Wrong arguments: the error names the argument, what is accepted, what came, the way out."""

import keras
import numpy as np
import pytest

import keras_gated


@pytest.mark.parametrize("units", [0, -3, 2.5, "8", None, True])
def test_units_must_be_a_positive_integer(family, units):
    for make in (family.layer, family.cell):
        with pytest.raises(
            ValueError, match=r"`units` must be a positive integer. Received: units="
        ):
            make(units)


@pytest.mark.parametrize("wrong", [
    {"units": -4}, {"units": 3, "activation": "nonsense"}, {"units": 3, "use_bias": "yes"},
    {"units": 3, "recurrent_constraint": "nonsense"}, {"units": 3, "dropout": 2},
    {"units": 3, "recurrent_weight_dropout": "half"}, {"units": 3, "implementation": 7},
    {"units": 3, "stateful": "yes"}, {"units": 3, "fused": "yes"},
], ids=str)  # fmt: skip
def test_an_error_speaks_of_the_class_that_was_asked_for(family, wrong):
    for make in (family.layer, family.cell):
        if make is family.cell and wrong.keys() & {"stateful", "fused"}:
            continue
        with pytest.raises(ValueError, match=rf"^{make.__name__}: ") as error:
            make(**wrong)
        assert make is family.cell or "Cell" not in str(error.value)
    with pytest.raises(ValueError, match=rf"{family.layer.__name__} needs to know"):
        family.make(3).build((2, 4, None))


def test_a_class_for_an_activation_is_told_to_be_an_object(family):
    for make in (family.layer, family.cell):
        with pytest.raises(ValueError, match=r"Received: activation=<class .*activation=ReLU\(\)"):
            make(3, activation=keras.layers.ReLU)


def test_a_layer_without_units_is_named(family):
    for make in (family.layer, family.cell):
        with pytest.raises(TypeError, match=rf"{make.__name__}.__init__\(\).* argument.*'units'"):
            make()


@pytest.mark.parametrize("family", ["lstm"], indirect=True)
@pytest.mark.parametrize(
    "states, received",
    [([[np.ones((2, 3))] * 2], r"\['a list'\]"), ({"h": np.ones((2, 3))}, r"\['a dict'\]")],
)
def test_states_inside_lists_are_told_apart_from_tensors(family, states, received):
    with pytest.raises(ValueError, match=rf"2 tensor\(s\).*Received: shapes {received}"):
        family.make(3)(np.zeros((2, 4, 5), "float32"), initial_state=states)


def test_states_for_one_direction_are_told_about_the_other(family):
    both, x = keras_gated.Bidirectional(family.make(3)), np.zeros((2, 4, 5), "float32")
    states = [np.zeros((2, 3), "float32")] * family.states
    words = rf"Bidirectional: .* a list of {2 * family.states} tensors.*Received: "
    with pytest.raises(ValueError, match="Bidirectional: `initial_state`"):
        both(x, initial_state=states)
    with pytest.raises(ValueError, match="Received: a single tensor"):
        both(x, initial_state=states[0])
    with pytest.raises(ValueError, match=words):
        both(keras.Input((4, 5)), initial_state=[keras.Input((3,))] * family.states)
    assert both(x, initial_state=states + states).shape == (2, 6)


class WithoutReturn(keras.layers.Layer):
    def call(self, x):
        x + 1


@pytest.mark.parametrize("family", ["lstm"], indirect=True)
def test_inputs_must_be_one_tensor(family):
    x = np.zeros((2, 4, 5), "float32")
    for layer in (family.make(3), keras_gated.Bidirectional(family.make(3))):
        for _ in range(2):  # while it is built, and later
            with pytest.raises(ValueError, match=r"LSTM: .* Received: None\. A layer"):
                layer(WithoutReturn()(x))
            with pytest.raises(ValueError, match=r"LSTM: .* Received: a dict of \['text'\]"):
                layer({"text": x})
            layer(x)


def test_two_layers_stacked_without_sequences_are_told_about_them(family):
    with pytest.raises(ValueError, match=r"layer before this one needs `return_sequences=True`"):
        keras.Sequential([keras.Input((4, 5)), family.make(3), family.make(2)])
    with pytest.raises(ValueError, match=r"layer before this one needs `return_sequences=True`"):
        family.make(2)(family.make(3)(np.zeros((2, 4, 5), "float32")))
    with pytest.raises(ValueError, match=r"`keras.layers.TimeDistributed`"):
        family.make(2)(np.zeros((2, 4, 5, 6), "float32"))


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize("rate", [-0.1, 1.5, "half", float("nan")])
def test_rates_must_lie_between_0_and_1_and_are_never_clamped(family, name, rate):
    with pytest.raises(
        ValueError, match=rf"`{name}` must be a number from 0 to 1.*Received: {name}="
    ):
        family.layer(3, **{name: rate})


@pytest.mark.parametrize("name", [
    "activation", "kernel_initializer", "recurrent_regularizer", "bias_constraint",
])  # fmt: skip
def test_unknown_names_are_refused_by_argument(family, name):
    with pytest.raises(ValueError, match=rf"`{name}` must be a name.*Received: {name}='nonsense'"):
        family.layer(3, **{name: "nonsense"})


@pytest.mark.parametrize("name", ["return_sequences", "stateful", "use_bias", "unroll"])
def test_switches_must_be_true_or_false(family, name):
    with pytest.raises(
        ValueError, match=rf"`{name}` must be True or False. Received: {name}='yes'"
    ):
        family.layer(3, **{name: "yes"})
    with pytest.raises(ValueError, match=r"must be True or False. Received:"):
        family.layer(3, **{name: 2})


def test_use_cudnn_takes_one_of_three_values():
    with pytest.raises(
        ValueError, match=r"`use_cudnn` must be .auto., True or False.*use_cudnn=.yes."
    ):
        keras_gated.LSTM(3, use_cudnn="yes")


def test_unknown_arguments_are_refused(family):
    with pytest.raises((TypeError, ValueError), match="colour"):
        family.layer(3, colour="red")
    others = {"unit_forget_bias", "reset_after", "recurrent_activation"}
    for name in others - set(family.cell.argument_names()):
        with pytest.raises((TypeError, ValueError), match=name):
            family.cell(3, **{name: None})


def layers_and_cells(family):
    cell = family.make_cell(3)
    return [
        (family.make(3), np.zeros((2, 4, 5), "float32"), r"\(batch, time, features\)"),
        (lambda x: cell(x, cell.get_initial_state(2)), np.zeros((2, 5), "float32"),
         r"\(batch, features\)"),
    ]  # fmt: skip


def test_inputs_must_have_the_right_axes(family):
    for call, x, axes in layers_and_cells(family):
        for wrong in (x[0], x[None]):
            with pytest.raises(ValueError, match=rf"shape {axes}. Received: .*{wrong.ndim} axes.*"):
                call(wrong)


def test_inputs_must_have_the_features_of_the_weights(family):
    for call, x, _ in layers_and_cells(family):
        call(x)
        with pytest.raises(ValueError, match=r"built for 5 features.*inputs.shape=\(2, .*4\)"):
            call(x[..., :4])


@pytest.mark.parametrize("dtype", ["str", "complex64"])
def test_inputs_must_be_real_numbers(family, dtype):
    for call, x, _ in layers_and_cells(family):
        with pytest.raises(ValueError, match=r"must be real numbers. Received: dtype="):
            call(x.astype(dtype))
        assert np.allclose(call(x.astype("int32") + 1)[0], call(x + 1)[0])


def test_whole_numbers_may_be_dropped_too(family):
    options = {"dropout": 0.5, "recurrent_dropout": 0.5, "seed": 1}
    ones = np.ones((2, 4, 5), "int32")
    for make in (family.make, lambda *a, **k: keras.layers.RNN(family.make_cell(*a, **k))):
        layers = [make(3, kernel_initializer="ones", **options) for _ in range(2)]
        received = [
            layers[0](ones, training=True),
            layers[1](ones.astype("float32"), training=True),
        ]
        assert received[0].shape == received[1].shape == (2, 3)


def test_symbolic_inputs_are_checked_as_early_as_others(family):
    with pytest.raises(ValueError, match="Received: a shape of 2 axes"):
        family.make(3)(keras.Input((4,)))
    with pytest.raises(ValueError, match=r"must be real numbers. Received: dtype=string"):
        family.make(3)(keras.Input((None, 4), dtype="string"))


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
def test_all_may_be_dropped(family, name):
    x = np.ones((2, 4, 5), "float32")
    output = np.array(family.make(3, **{name: 1.0})(x, training=True))
    zeros = family.make(3)(x * 0)
    assert np.allclose(output, zeros) == (name == "dropout")


def test_the_number_of_features_must_be_known(family):
    with pytest.raises(ValueError, match="number of features"):
        family.layer(3)(keras.Input((None, None)))


def test_initial_states_must_fit(family):
    layer = family.make(3)
    x = np.zeros((2, 4, 5), "float32")
    good = layer.get_initial_state(2)
    layer(x, initial_state=good)
    cell = family.make_cell(3)
    for states in (
        [*good, good[0]],
        [np.zeros((2, 7), "float32")] * family.states,
        [np.zeros((3, 3), "float32")] * family.states,
        [good[0][0]] * family.states,
    ):
        message = r"states before must be .*\(batch, units\) = \(2, 3\). Received: shapes"
        with pytest.raises(ValueError, match=message):
            layer(x, initial_state=states)
        with pytest.raises(ValueError, match=message):
            cell(x[:, 0], states)


def test_unrolling_needs_a_fixed_number_of_steps(family):
    with pytest.raises(ValueError, match="`unroll=True` needs a fixed number of steps"):
        family.make(3, unroll=True)(keras.Input((None, 5)))
