"""PyTorch's RNN, LSTM and GRU as ours and back, against PyTorch itself."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from grids import product
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import from_torch, to_torch

torch = pytest.importorskip("torch")

X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
LENGTHS = [6, 1, 4, 3]
KINDS = {"RNN": keras_gated.SimpleRNN, "LSTM": keras_gated.LSTM, "GRU": keras_gated.GRU}


def module(kind, **options):
    torch.manual_seed(1)
    made = getattr(torch.nn, kind)(3, 5, **options)
    for parameter in made.parameters():  # theirs are small: differences would be, too
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def outputs(made, x, **call):
    x = torch.from_numpy(x if made.batch_first else x.swapaxes(0, 1))
    y = made(x, **call)[0].detach().numpy()
    return y if made.batch_first else y.swapaxes(0, 1)


@pytest.mark.parametrize(
    "kind, num_layers, bidirectional, batch_first, bias",
    product(KINDS, (1, 3), (True, False), (True, False), (True, False)),
)
def test_outputs_agree_both_ways(kind, num_layers, bidirectional, batch_first, bias):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias}
    theirs = module(kind, batch_first=batch_first, **options)
    expected = outputs(theirs, X)
    ours = from_torch(theirs)
    assert_allclose(ours(X), expected, atol=2e-6)
    arrays = {name: value.numpy() for name, value in theirs.state_dict().items()}
    assert_allclose(from_torch(arrays)(X), expected, atol=2e-6)
    back = to_torch(ours, batch_first=batch_first)
    assert type(back) is type(theirs) and back.num_layers == num_layers
    assert_allclose(outputs(back, X), expected, atol=2e-6)
    if kind == "GRU":  # its two biases are kept apart
        for name, value in back.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name])
    elif bias:  # the sum goes to the one, and zeros to the other
        assert not back.bias_hh_l0.any()
        assert_allclose(back.bias_ih_l0.detach(), (theirs.bias_ih_l0 + theirs.bias_hh_l0).detach())


@pytest.mark.parametrize(
    "num_layers, bidirectional, bias", product((1, 2), (True, False), (True, False))
)
def test_a_projection_agrees_both_ways(num_layers, bidirectional, bias):
    theirs = module(
        "LSTM", proj_size=2, num_layers=num_layers, bidirectional=bidirectional, bias=bias,
        batch_first=True,
    )  # fmt: skip
    ours = from_torch(theirs)
    assert_allclose(ours(X), outputs(theirs, X), atol=2e-6)
    back = to_torch(ours)
    assert back.proj_size == 2 and back.hidden_size == 5
    assert_allclose(outputs(back, X), outputs(theirs, X), atol=2e-6)
    arrays = to_torch(ours, state_dict=True)
    assert set(arrays) == set(theirs.state_dict()) and arrays["weight_hr_l0"].shape == (2, 5)
    with pytest.raises(ValueError, match=r"weight_hr_l0 must have shape \(2, 4\)|must have shape"):
        from_torch({**arrays, "weight_hr_l0": np.ones((3, 4), "float32")})


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_are_masks_and_initial_states_are_states(kind, bidirectional):
    theirs = module(kind, batch_first=True, bidirectional=bidirectional)
    directions, number = 1 + bidirectional, 2 if kind == "LSTM" else 1
    rng = np.random.default_rng(2)
    states = rng.normal(size=(number, directions, 4, 5)).astype("float32")
    given = [torch.from_numpy(s) for s in states]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(X), LENGTHS, batch_first=True, enforce_sorted=False
    )
    y, finals = theirs(packed, tuple(given) if number == 2 else given[0])
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
    finals = finals if number == 2 else [finals]

    ours = from_torch(theirs)
    config = ours.get_config()
    if bidirectional:
        config["layer"]["config"]["return_state"] = True
        config.pop("backward_layer", None)
    else:
        config["return_state"] = True
    asked = type(ours).from_config(config)
    asked.build(X.shape)
    asked.set_weights(ours.get_weights())
    mask = np.arange(6) < np.array(LENGTHS)[:, None]
    initial = [states[n, d] for d in range(directions) for n in range(number)]
    received, *own_finals = asked(X, mask=mask, initial_state=initial)
    assert_allclose(np.where(mask[..., None], received, 0), y.detach(), atol=1e-6)
    expected = [finals[n][d] for d in range(directions) for n in range(number)]
    for own, final in zip(own_finals, expected, strict=True):
        assert_allclose(own, final.detach(), atol=1e-6)


def test_gradients_agree():
    theirs = module("GRU", batch_first=True)
    ours = from_torch(theirs)
    theirs(torch.from_numpy(X))[0].sin().sum().backward()
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(ours(X)))
    gradients = tape.gradient(loss, ours.trainable_variables)
    # A layer whose weights are the gradients: their columns move, and change sign, alike.
    as_weights = keras_gated.GRU(5)
    as_weights.build(X.shape)
    as_weights.set_weights([g.numpy() for g in gradients])
    for name, value in to_torch(as_weights, state_dict=True).items():
        assert_allclose(value, getattr(theirs, name).grad, atol=2e-5)


def test_a_part_of_a_larger_model_relu_and_other_dtypes():
    theirs = module("RNN", nonlinearity="relu", dtype=torch.float64, batch_first=True)
    larger = {f"encoder.{name}": value for name, value in theirs.state_dict().items()}
    larger["head.weight"] = torch.zeros(2, 5)
    ours = from_torch(larger, prefix="encoder.", activation="relu", return_sequences=False)
    expected = theirs(torch.from_numpy(X.astype("float64")))[0][:, -1].detach()
    assert_allclose(ours(X.astype("float64")), expected, atol=1e-12)
    back = to_torch(ours)
    assert back.nonlinearity == "relu" and back.weight_ih_l0.dtype == torch.float64


def test_dropout_between_layers_is_kept_and_that_of_a_layer_is_left_out_with_a_warning():
    theirs = module("LSTM", num_layers=2, dropout=0.25, batch_first=True)
    ours = from_torch(theirs)
    assert [type(layer) for layer in ours.layers] == [
        keras_gated.LSTM, keras.layers.Dropout, keras_gated.LSTM
    ]  # fmt: skip
    assert to_torch(ours).dropout == 0.25
    layer = keras_gated.LSTM(3, dropout=0.5)
    layer.build(X.shape)
    with pytest.warns(UserWarning, match=r"drops {'dropout': 0\.5} in training") as said:
        to_torch(layer)
    assert said[0].filename == __file__  # the line that called it


def test_what_does_not_fit_is_refused_by_name():
    good = {name: v.numpy() for name, v in module("LSTM").state_dict().items()}
    for change, message in (
        ({"weight_hh_l0": None}, "lacks weight_hh_l0"),
        ({"bias_hh_l0": None}, "lacks bias_hh_l0"),
        ({"weight_ih_l1": good["weight_ih_l0"]}, "lacks bias_hh_l1, bias_ih_l1, weight_hh_l1"),
        ({"fc.weight": np.ones(3)}, r"'fc.weight' is no weight.*prefix"),
        ({"weight_hh_l0": np.ones((10, 5))}, r"weight_hh_l0 must have shape \(gates \* units"),
        ({"weight_ih_l0": np.ones((15, 3))}, r"weight_ih_l0 must have shape \(20, 3\).*\(15, 3\)"),
        ({"bias_ih_l0": np.ones(19)}, r"bias_ih_l0 must have shape \(20,\).*\(19,\)"),
    ):
        changed = {k: v for k, v in {**good, **change}.items() if v is not None}
        with pytest.raises(ValueError, match=message):
            from_torch(changed)
    with pytest.raises(ValueError, match=r"must be a torch.nn.RNN, LSTM or GRU.*a Linear"):
        from_torch(torch.nn.Linear(3, 5))

    def built(layer):
        layer.build(X.shape)
        return layer

    for layer, message in (
        (keras_gated.LSTM(3, go_backwards=True), "go_backwards=True"),
        (keras_gated.GRU(3, reset_after=False), "reset_after=False"),
        (keras_gated.LSTM(3, activation="relu"), "activation='relu'"),
        (keras_gated.LSTM(3, zoneout=0.1), r"zoneout=0\.1"),
        (keras_gated.PeepholeLSTM(3), "must be built layers of keras_gated"),
        (keras_gated.LSTM(3, recurrent_activation="relu"), "recurrent_activation='relu'"),
        (keras_gated.Bidirectional(keras_gated.LSTM(3), merge_mode="sum"), "merge_mode='sum'"),
        (keras.layers.LSTM(3), "from_keras"),
    ):
        with pytest.raises(ValueError, match=message):
            to_torch(built(layer))
    with pytest.raises(ValueError, match="same class, units"):
        to_torch([built(keras_gated.LSTM(3)), built(keras_gated.LSTM(4))])


def test_a_state_dict_of_arrays_is_read_without_torch(tmp_path):
    theirs = module("GRU", batch_first=True)
    np.savez(tmp_path / "w.npz", **{n: v.numpy() for n, v in theirs.state_dict().items()})
    np.savez(tmp_path / "xy.npz", x=X, y=outputs(theirs, X))
    script = (
        "import sys, numpy as np\n"
        "sys.modules['torch'] = None\n"
        "import keras_gated\n"
        "layer = keras_gated.from_torch(dict(np.load('w.npz')))\n"
        "xy = np.load('xy.npz')\n"
        "np.testing.assert_allclose(layer(xy['x']), xy['y'], atol=1e-6)\n"
        "arrays = keras_gated.to_torch(layer, state_dict=True)\n"
        "assert all((arrays[n] == a).all() for n, a in np.load('w.npz').items())\n"
        "try:\n"
        "    keras_gated.to_torch(layer)\n"
        "except ImportError as error:\n"
        "    assert 'state_dict=True' in str(error)\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


class Larger(torch.nn.Module):
    def __init__(self, part):
        super().__init__()
        self.encoder, self.head = part, torch.nn.Linear(5, 2)


def test_what_is_no_module_and_no_state_dict_is_refused_with_the_way_out():
    good = {name: v.numpy() for name, v in module("LSTM").state_dict().items()}
    for given in ("x.pt", b"x.pt", None, 3, list(good.items()), {1: 2}, torch.nn.LSTM):
        with pytest.raises(ValueError, match=r"^from_torch: .*Received: .*torch.load\(path"):
            from_torch(given)
    for cell in (torch.nn.LSTMCell(3, 5), torch.nn.GRUCell(3, 5), torch.nn.RNNCell(3, 5)):
        with pytest.raises(ValueError, match=rf"a {type(cell).__name__}, a cell.*_l0"):
            from_torch(cell)
    for given, message in (
        (Larger(module("GRU")), r'a Larger, which holds encoder.*prefix="encoder\."'),
        (Larger(torch.nn.LSTMCell(3, 5)), "which holds the cells encoder"),
        (Larger(torch.nn.Linear(3, 5)), "holds no recurrent module"),
        (torch.nn.Sequential(torch.nn.ReLU()), "holds no recurrent module"),
        ({}, "lacks weight_hh_l0"),
    ):
        with pytest.raises(ValueError, match=message):
            from_torch(given)
    with pytest.raises(ValueError, match="`prefix` must be the text"):
        from_torch(good, prefix=None)


def test_the_way_out_for_a_cell_gives_its_answers():
    cell = torch.nn.LSTMCell(3, 5)
    ours = from_torch({f"{n}_l0": w for n, w in cell.state_dict().items()})
    h, _ = cell(torch.from_numpy(X[:, 0]))
    assert_allclose(ours(X[:, :1])[:, 0], h.detach(), atol=1e-6)


def test_weights_that_are_no_weights_are_refused_by_name():
    good = {name: v.numpy() for name, v in module("LSTM").state_dict().items()}
    for change, message in (
        ({"bias_ih_l0": "text"}, "'bias_ih_l0' must be a dense array of floats"),
        ({"bias_ih_l0": None}, "'bias_ih_l0' must be a dense"),
        ({"bias_ih_l0": [[1.0], [1.0, 2.0]]}, "'bias_ih_l0' must be a dense"),
        ({"weight_ih_l0": good["weight_ih_l0"].astype("int8")}, "Received: int8.*quantised"),
        ({"weight_ih_l0": torch.ones(20, 3).to_sparse()}, "'weight_ih_l0' must be a dense"),
        ({"weight_ih_l0": torch.ones(20, 3, device="meta")}, "'weight_ih_l0' must be a dense"),
        ({"weight_hh_l0": np.float32(1)}, r"weight_hh_l0 must have shape.*shape=\(\)"),
        ({"weight_hh_l0": np.ones((20, 5, 1), "float32")}, "weight_hh_l0 must have shape"),
        ({"weight_hh_l0": good["weight_hh_l0"].astype("float64")}, "and its dtype.*float32"),
        ({"weight_ih_l0": np.float32(1)}, r"weight_ih_l0 must have shape \(20, 'features'\)"),
        ({"weight_ih_l999999999": good["weight_ih_l0"]}, "lacks bias_hh_l1"),
    ):
        with pytest.raises(ValueError, match=f"^from_torch: .*{message}"):
            from_torch({**good, **change})
