"""PyTorch's RNN, LSTM and GRU as ours and back, against PyTorch itself."""

import re
import sys

import keras
import numpy as np
import pytest
from grids import product
from numpy.testing import assert_allclose

import keras_gated
from keras_gated import from_torch, to_torch

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")

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


def test_dropout_before_or_after_the_layers_is_refused():
    dropout, one, other = keras.layers.Dropout(0.25), keras_gated.GRU(3), keras_gated.GRU(3)
    one.build((None, None, 3))
    other.build((None, None, 3))
    assert to_torch([one, dropout, other]).dropout == 0.25
    for given in ([dropout, one, other], [one, other, dropout]):
        with pytest.raises(
            ValueError, match=r"nothing before or after.*Dropout layers of \[0.25\]"
        ):
            to_torch(given)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_the_layer_around_a_cell_becomes_the_module_of_its_family(kind):
    cell = {"RNN": keras_gated.SimpleRNNCell, "LSTM": keras_gated.LSTMCell}
    layer = keras_gated.RNN(cell.get(kind, keras_gated.GRUCell)(4), return_sequences=True)
    both = keras_gated.Bidirectional(layer)
    expected = both(X)
    assert isinstance(to_torch(both), getattr(torch.nn, kind))
    assert_allclose(outputs(to_torch(both), X), expected, atol=2e-6)


def test_a_compiled_module_is_read_without_a_prefix():
    theirs = module("LSTM", batch_first=True)
    for given in (torch.compile(theirs), torch.compile(Larger(theirs))):
        assert_allclose(from_torch(given)(X), outputs(theirs, X), atol=2e-6)


def test_what_does_not_fit_is_refused_by_name():
    good = {name: v.numpy() for name, v in module("LSTM").state_dict().items()}
    for change, message in (
        ({"weight_hh_l0": None}, "lacks weight_hh_l0"),
        ({"bias_hh_l0": None}, "lacks bias_hh_l0"),
        ({"weight_ih_l1": good["weight_ih_l0"]}, "lacks bias_hh_l1, bias_ih_l1, weight_hh_l1"),
        ({"h0": np.ones(3)}, "'h0' is no weight"),
        ({"parametrizations.x": np.ones(3)}, "'parametrizations.x' is no weight"),
        ({"weight_hh": np.ones((20, 5))}, "or is of a layer and a cell"),
        ({"weight_hh_l0": np.ones((10, 5))}, r"weight_hh_l0 must have shape \(gates \* units"),
        ({"weight_ih_l0": np.ones((15, 3))}, r"weight_ih_l0 must have shape \(20, 3\).*\(15, 3\)"),
        ({"bias_ih_l0": np.ones(19)}, r"bias_ih_l0 must have shape \(20,\).*\(19,\)"),
    ):
        changed = {k: v for k, v in {**good, **change}.items() if v is not None}
        with pytest.raises(ValueError, match=message):
            from_torch(changed)
    with pytest.raises(ValueError, match=r"must be a torch.nn.RNN, LSTM, GRU or a cell.*a Linear"):
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


def test_a_state_dict_of_arrays_is_read_without_torch(uninstall):
    theirs = module("GRU", batch_first=True)
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
    expected = outputs(theirs, X)
    uninstall("torch")
    layer = from_torch(weights)
    assert_allclose(layer(X), expected, atol=1e-6)
    arrays = to_torch(layer, state_dict=True)
    assert all((arrays[name] == array).all() for name, array in weights.items())
    with pytest.raises(ImportError, match="state_dict=True"):
        to_torch(layer)


class Larger(torch.nn.Module):
    def __init__(self, part):
        super().__init__()
        self.encoder, self.head = part, torch.nn.Linear(10, 2)

    def forward(self, x):
        return self.head(self.encoder(x)[0])


def test_what_is_no_module_and_no_state_dict_is_refused_with_the_way_out():
    good = {name: v.numpy() for name, v in module("LSTM").state_dict().items()}
    for given in (b"x.pt", None, 3, list(good.items()), {1: 2}, torch.nn.LSTM):
        with pytest.raises(ValueError, match=r"^from_torch: .*or the path of a file\. Received: "):
            from_torch(given)
    for given, message in (
        (Larger(torch.nn.Linear(3, 5)), "holds no recurrent module"),
        (torch.nn.Sequential(torch.nn.ReLU()), "holds no recurrent module"),
        ({}, "lacks weight_hh_l0"),
    ):
        with pytest.raises(ValueError, match=message):
            from_torch(given)
    with pytest.raises(ValueError, match="`prefix` must be the text"):
        from_torch(good, prefix=3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_a_cell_becomes_a_layer_that_takes_its_steps(kind, bias):
    cell = module(kind, bias=bias)
    state, expected = None, []
    for x in torch.from_numpy(X.swapaxes(0, 1)):
        state = cell(x, state)
        expected.append((state[0] if kind == "LSTMCell" else state).detach().numpy())
    larger = Larger(cell)
    for given in (cell, cell.state_dict(), larger, larger.state_dict(), torch.jit.script(cell)):
        ours = from_torch(given)
        assert type(ours) is KINDS[kind.removesuffix("Cell")]
        assert_allclose(ours(X), np.stack(expected, 1), atol=2e-6)
    with pytest.raises(ValueError, match=r"weight_ih must have shape \(.*as weight_hh says"):
        from_torch({**cell.state_dict(), "weight_ih": np.ones((2, 3))})


def test_the_nonlinearity_of_a_cell_is_its_own_and_of_its_weights_is_told():
    cell = module("RNNCell", nonlinearity="relu")
    expected = cell(torch.from_numpy(X[:, 0])).detach()
    for given in (cell, torch.jit.script(cell)):
        assert_allclose(from_torch(given)(X[:, :1])[:, 0], expected, atol=1e-6)
    ours = from_torch(cell.state_dict(), activation="relu")
    assert_allclose(ours(X[:, :1])[:, 0], expected, atol=1e-6)


def test_the_one_recurrent_module_of_a_model_is_found_and_of_several_one_is_asked_for():
    theirs = module("GRU", batch_first=True)
    expected = outputs(theirs, X)
    wrapped = torch.nn.ModuleDict({"module": Larger(theirs)})
    state = wrapped.state_dict()
    moments = {"state": {0: {"exp_avg": X}}, "param_groups": []}
    checkpoint = {"step": 3, "model_state": state, "optimizer_state": moments}
    for given in (wrapped, state, {"epoch": 3, "state_dict": state}, checkpoint):
        assert_allclose(from_torch(given)(X), expected, atol=2e-6)
    two = torch.nn.ModuleDict({"first": theirs, "second": module("LSTM")})
    for given in (two, two.state_dict()):
        with pytest.raises(ValueError, match=r"2 recurrent modules.*: 'first\.', 'second\.'"):
            from_torch(given)
        for prefix in ("first", "", "first.weight"):
            with pytest.raises(ValueError, match=r"prefix='.*has: 'first\.', 'second\.'"):
                from_torch(given, prefix=prefix)
        assert_allclose(from_torch(given, prefix="first.")(X), expected, atol=2e-6)
        assert type(from_torch(given, prefix="second.")) is keras_gated.LSTM
    with pytest.raises(ValueError, match=r"several state dicts: net and ema\.shadow\. Pass one"):
        from_torch({"net": state, "ema": {"shadow": state}})


def test_short_names_behind_an_underscore_are_read():
    theirs = module("GRU", batch_first=True)
    arrays = {n: v.numpy() for n, v in theirs.state_dict().items()}
    short = {f"enc_{n.replace('weight', 'w').replace('bias', 'b')[:-3]}": v
             for n, v in arrays.items()}  # fmt: skip
    whole = {**short, "enc_emb": X, "fc_w": X, "fc_b": X}
    for given, prefix in ((whole, None), (whole, "enc_")):
        assert_allclose(from_torch(given, prefix=prefix)(X), outputs(theirs, X), atol=2e-6)
    with pytest.raises(ValueError, match="'enc_', 'dec_'"):
        from_torch({**whole, **{n.replace("enc", "dec"): v for n, v in short.items()}})


def save(state, path):
    if path.suffix == ".npz":
        np.savez(path, **{n: v.numpy() for n, v in state.items()})
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", ".bin", ".ckpt"])
def test_a_file_of_weights_is_read_and_a_broken_one_is_named(suffix, tmp_path):
    theirs = module("LSTM", batch_first=True)
    path = tmp_path / f"weights{suffix}"
    save(Larger(theirs).state_dict(), path)
    for given in (path, str(path)):
        assert_allclose(from_torch(given)(X), outputs(theirs, X), atol=2e-6)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for content in (b"", b"text", whole[:9], whole[: len(whole) // 2], whole[:-9], rng.bytes(999)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"'.*weights\{suffix}' is cut off.*Write the"):
            from_torch(path)
    save(torch.nn.Linear(3, 5).state_dict(), path)
    with pytest.raises(
        ValueError, match=rf"from_torch\('.*weights\{suffix}'\): the state dict lacks"
    ):
        from_torch(path)
    with pytest.raises(FileNotFoundError, match=r"from_torch: there is no file '.*other"):
        from_torch(tmp_path / f"other{suffix}")


def test_weights_of_bfloat16_in_safetensors_are_read_as_float32(tmp_path):
    state = {n: v.bfloat16() for n, v in module("GRU").state_dict().items()}
    save(state, tmp_path / "w.safetensors")
    theirs = module("GRU", batch_first=True)
    theirs.load_state_dict({n: v.float() for n, v in state.items()})
    assert_allclose(from_torch(tmp_path / "w.safetensors")(X), outputs(theirs, X), atol=2e-6)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_nothing_that_a_file_holds_is_run(tmp_path):
    ran = tmp_path / "ran"
    state = {**module("GRU").state_dict(), "bias_ih_l0": Hostile(ran)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt' .*it would run .*exec\. Write the weights alone"):
        from_torch(tmp_path / "w.pt")
    torch.save(module("GRU"), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"it would run torch.nn.modules.rnn.GRU\. Write the"):
        from_torch(tmp_path / "w.pt")
    torch.jit.save(torch.jit.script(module("GRU")), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt'.*pass torch\.jit\.load\(path\)"):
        from_torch(tmp_path / "w.pt")
    hostile = np.empty((), object)
    hostile[()] = Hostile(ran)
    np.savez(tmp_path / "w.npz", weight_hh_l0=hostile)
    with pytest.raises(ValueError, match=r"w\.npz' .*allow_pickle=False\. Write"):
        from_torch(tmp_path / "w.npz")
    arrays = {n: v.numpy() for n, v in module("GRU").state_dict().items()}
    np.savez(tmp_path / "w.npz", **{**arrays, "head.extra": hostile})  # is not looked at
    assert type(from_torch(tmp_path / "w.npz")) is keras_gated.GRU
    assert not ran.exists()


def test_files_of_other_kinds_and_missing_packages_are_told(tmp_path, monkeypatch):
    for name in ("w.dat", "w"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=rf"one of \.npz, .*{name}'"):
            from_torch(tmp_path / name)
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(ValueError, match=r"one of \.npz, .*folder\.pt'"):
        from_torch(tmp_path / "folder.pt")
    np.save(tmp_path / "w.npy", X)
    (tmp_path / "w.npy").rename(tmp_path / "w.npz")
    with pytest.raises(ValueError, match=r"w\.npz'.*it is one array"):
        from_torch(tmp_path / "w.npz")
    for package, name in (("torch", "w.pt"), ("safetensors", "w.safetensors")):
        (tmp_path / name).write_bytes(b"")
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=rf"{package} is not installed.*pip install"):
                from_torch(tmp_path / name)


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("api", ["older", "parametrizations"])
@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm:FutureWarning")
def test_weight_norm_is_folded_in(api, dim):
    utils = torch.nn.utils
    norm = utils.weight_norm if api == "older" else utils.parametrizations.weight_norm
    theirs = module("LSTM", batch_first=True, num_layers=2, bidirectional=True)
    for name in ("weight_hh_l0", "weight_ih_l1_reverse"):
        theirs = norm(theirs, name, dim=dim)
    with torch.no_grad():
        for name, size in theirs.named_parameters():
            if name.endswith(("_g", "original0")):
                size.mul_(1.5)  # away from the norm of v
    expected = outputs(theirs, X)
    for given in (theirs, theirs.state_dict(), Larger(theirs).state_dict()):
        assert_allclose(from_torch(given)(X), expected, atol=2e-6)
    state = theirs.state_dict()
    [name] = [n for n in state if "weight_hh_l0" in n and n.endswith(("_g", "original0"))]
    with pytest.raises(ValueError, match=r"\(weight_norm\) the first must have"):
        from_torch({**state, name: torch.ones(7, 1)})
    with pytest.raises(ValueError, match=r"weight_norm alone is converted. Received: .*hh_l0"):
        from_torch({n: v for n, v in state.items() if n != name})


def test_other_parametrizations_are_refused_by_name():
    from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm

    class Pair(torch.nn.Module):
        def forward(self, a, b):
            return a + b

        def right_inverse(self, w):
            return w / 2, w / 2

    pair = module("LSTM")
    parametrize.register_parametrization(pair, "weight_hh_l0", Pair())
    pruned = module("LSTM")
    prune.l1_unstructured(pruned, "weight_hh_l0", 0.2)
    spectral = parametrizations.spectral_norm(module("LSTM"), "weight_hh_l0")
    for given, message in (
        (pair, "Received: Pair of weight_hh_l0"),
        (spectral, "Received: _SpectralNorm of weight_hh_l0"),
        (spectral.state_dict(), r"parametrizations.weight_hh_l0.0._u.*remove_parametrizations"),
        (spectral_norm(module("LSTM"), "weight_hh_l0"), "weight_hh_l0_orig, weight_hh_l0_u"),
        (pruned, "weight_hh_l0_mask, weight_hh_l0_orig"),
    ):
        with pytest.raises(ValueError, match=f"weight_norm alone is converted.*{message}"):
            from_torch(given)


@pytest.mark.sampled
@pytest.mark.parametrize("kind", KINDS)
def test_scripted_and_traced_modules_are_read(kind, tmp_path):
    options = {"nonlinearity": "relu"} if kind == "RNN" else {}
    theirs = module(kind, batch_first=True, num_layers=2, bidirectional=True, **options)
    expected = outputs(theirs, X)
    x = torch.from_numpy(X)
    torch.jit.save(torch.jit.script(Larger(theirs)), tmp_path / "w.pt")
    for given in (
        torch.jit.script(theirs),
        torch.jit.load(tmp_path / "w.pt"),
        torch.jit.trace(theirs, x),
        torch.jit.trace(Larger(theirs), x),
    ):
        ours = from_torch(given, activation="relu")
        assert_allclose(ours(X), expected, atol=2e-6)
    scripted = torch.jit.script(module("LSTM", num_layers=2, dropout=0.25))
    assert to_torch(from_torch(scripted)).dropout == 0.25


@pytest.mark.sampled
@pytest.mark.parametrize(
    "kind, num_layers, bidirectional", product((*KINDS, "projection"), (1, 3), (True, False))
)
def test_states_go_in_and_come_out_in_the_order_of_torch(kind, num_layers, bidirectional, tmp_path):
    options = {"proj_size": 2} if kind == "projection" else {}
    theirs = module(
        "LSTM" if options else kind, batch_first=True, num_layers=num_layers,
        bidirectional=bidirectional, dropout=0.5 * (num_layers > 1), **options,
    ).eval()  # fmt: skip
    rng = np.random.default_rng(2)
    rows = num_layers * (1 + bidirectional)
    h_0 = rng.normal(size=(rows, 4, 2 if options else 5)).astype("float32")
    c_0 = rng.normal(size=(rows, 4, 5)).astype("float32")
    memory = type(theirs) is torch.nn.LSTM
    states = [*h_0, *c_0] if memory else [*h_0]
    given = (torch.from_numpy(h_0), torch.from_numpy(c_0)) if memory else torch.from_numpy(h_0)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(X), LENGTHS, batch_first=True, enforce_sorted=False
    )
    y, finals = theirs(packed, given)
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
    finals = [*finals[0], *finals[1]] if memory else [*finals]

    model = from_torch(theirs, return_state=True)
    mask = np.arange(6) < np.array(LENGTHS)[:, None]
    received, own = model((X, states), mask=(mask, [None] * len(states)))
    assert_allclose(np.where(mask[..., None], received, 0), y.detach(), atol=2e-6)
    for one, final in zip(own, finals, strict=True):
        assert_allclose(one, final.detach(), atol=2e-6)

    suffixes = ("", "_reverse") if bidirectional else ("",)
    names = [
        f"{letter}_{layer}{suffix}"
        for letter in ("hc" if memory else "h")
        for layer in range(num_layers)
        for suffix in suffixes
    ]
    assert [one.name for one in model.inputs] == ["x", *names]
    assert model.output_names == ["y", *(f"{name}_final" for name in names)]

    whole, _ = theirs(torch.from_numpy(X), given)
    model.save(tmp_path / "m.keras")
    for asked in (model, keras.models.load_model(tmp_path / "m.keras")):
        received, own = asked.predict((X, states), verbose=0)
        assert isinstance(own, list)
        assert_allclose(received, whole.detach(), atol=2e-6)
    if not bidirectional:  # a sequence in two parts
        first, between = model((X[:, :2], states))
        rest = keras.ops.convert_to_tensor(X[:, 2:])  # arrays and tensors do not mix
        second, _ = model((rest, between))
        assert_allclose(np.concatenate([first, second], 1), whole.detach(), atol=2e-6)


def test_the_last_step_alone_and_float64_are_returned_with_states():
    theirs = module("GRU", dtype=torch.float64, batch_first=True, num_layers=2)
    x, h_0 = X.astype("float64"), np.ones((2, 4, 5))
    y, h_n = theirs(torch.from_numpy(x), torch.from_numpy(h_0))
    received, states = from_torch(theirs, return_sequences=False, return_state=True)((x, [*h_0]))
    assert_allclose(received, y[:, -1].detach(), atol=1e-12)
    assert_allclose(np.stack(states), h_n.detach(), atol=1e-12)


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


@pytest.mark.sampled
@pytest.mark.parametrize("options", [{}, {"return_sequences": False}, {"return_state": True}])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_a_conversion_tells_the_largest_difference_that_it_saw(kind, options, capsys):
    more = {} if "Cell" in kind else {"num_layers": 2, "bidirectional": True}
    theirs = module(kind, **more)
    for given in (theirs, theirs.state_dict(), torch.jit.script(theirs)):
        from_torch(given, check=True, **options)
        told = capsys.readouterr().out
        assert re.fullmatch(r"from_torch: the largest difference from torch is \S+ .*\n", told)
        assert float(told.split()[7]) < 1e-5
    assert theirs.training


@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
def test_a_module_that_answers_otherwise_is_refused_by_the_check(kind):
    class Other(getattr(torch.nn, kind)):
        def forward(self, *given):
            found = super().forward(*given)
            return 1.5 * found if kind == "GRUCell" else (
                found[0]._replace(data=1.5 * found[0].data), found[1])  # fmt: skip

    with pytest.raises(ValueError, match=r"answer otherwise than torch, by .*accepted: 1e-04"):
        from_torch(Other(4, 5), check=True)


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path):
    zeros = np.zeros((4 * 2048, 2048), "float32")
    np.savez_compressed(tmp_path / "w.npz", weight_ih_l0=zeros, weight_hh_l0=zeros)
    with pytest.raises(ValueError, match=r"w\.npz'.*would unpack to 134217\d+ bytes from \d+"):
        from_torch(tmp_path / "w.npz")


def test_a_forward_hook_is_refused_and_compared_by_check():
    module = torch.nn.LSTM(4, 4, batch_first=True)
    handle = module.register_forward_hook(lambda module, given, found: (given[0], found[1]))
    with pytest.raises(ValueError, match="a LSTM has a forward hook"):
        from_torch(module)
    with pytest.raises(ValueError, match="otherwise"):
        from_torch(module, check=True)
    handle.remove()
    from_torch(module, check=True)


def test_a_quantised_module_is_refused_by_name():
    whole = torch.nn.Sequential(torch.nn.LSTM(3, 4))
    quantised = torch.ao.quantization.quantize_dynamic(whole, {torch.nn.LSTM})
    with pytest.raises(ValueError, match=r"a quantised LSTM\. .*pass the one before"):
        from_torch(quantised)


def test_a_tensor_with_two_names_in_safetensors_is_read(tmp_path):
    theirs = torch.nn.LSTM(4, 4, 2, batch_first=True)
    theirs.weight_ih_l1, theirs.weight_hh_l1 = theirs.weight_ih_l0, theirs.weight_hh_l0
    pytest.importorskip("safetensors.torch").save_model(theirs, tmp_path / "w.safetensors")
    ours, x = from_torch(tmp_path / "w.safetensors"), np.ones((2, 5, 4), "float32")
    assert_allclose(ours(x), outputs(theirs, x), atol=2e-6)


def test_a_forward_of_ones_own_is_refused_by_name():
    class Scaled(torch.nn.LSTM):
        def forward(self, x, states=None):
            return super().forward(2 * x, states)

    class Named(torch.nn.LSTM):
        pass

    with pytest.raises(ValueError, match="a Scaled has a `forward` of its own"):
        from_torch(torch.nn.Sequential(Scaled(3, 5, batch_first=True)))
    from_torch(Named(3, 5, batch_first=True), check=True)


def test_a_module_of_bfloat16_is_compared(capsys):
    from_torch(module("LSTM").to(torch.bfloat16), check=True)
    assert "the largest difference from torch is" in capsys.readouterr().out


def test_weights_without_numbers_are_told():
    with pytest.raises(ValueError, match=r"'weight_ih_l0' must be .* on the device 'meta'"):
        from_torch(torch.nn.LSTM(3, 4, device="meta"))


@pytest.mark.parametrize("state_dict", [True, False])
def test_layers_that_do_not_fit_on_each_other_are_named(state_dict):
    first, second = keras_gated.LSTM(4, return_sequences=True), keras_gated.LSTM(4, name="second")
    for layer in (first, second):
        layer.build((None, None, 3))
    with pytest.raises(ValueError, match=r"must read the 4 outputs .* 'second', built for 3"):
        to_torch([first, second], state_dict=state_dict)
    with pytest.raises(ValueError, match="must hold a recurrent layer"):
        to_torch([])
