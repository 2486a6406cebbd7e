"""Whole models around recurrent layers, as PyTorch exports them: onnxruntime judges.

PyTorch 2.13's newer exporter writes no packed sequences ("zeros(): argument 'size'"), nor the
convolution before a GRU here; what it writes of the others is read, too.
"""

import warnings

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from keras_gated import from_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
from onnx_graphs import ask_onnxruntime  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

pytestmark = pytest.mark.usefixtures("loop_of_the_cell")


class Sound(nn.Module):
    """A convolution over time, normalised, before a GRU."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 4, 3, padding=1, stride=2), nn.BatchNorm1d(4)
        self.gru, self.linear = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x))).transpose(1, 2)
        return self.linear(self.gru(y)[0])


class Lines(nn.Module):
    """A CRNN: an image of any width, its columns as steps."""

    def __init__(self, batch_first):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.pool, self.batch_first = nn.MaxPool2d((2, 1)), batch_first
        self.lstm = nn.LSTM(16, 5, bidirectional=True, batch_first=batch_first)
        self.linear = nn.Linear(10, 3)

    def forward(self, x):
        y = self.pool(torch.relu(self.norm(self.conv(x))))
        batch, channels, height, width = y.shape
        y = y.reshape(batch, channels * height, width)
        y = y.transpose(1, 2) if self.batch_first else y.permute(2, 0, 1)
        return self.linear(self.lstm(y)[0]).log_softmax(2)


class Packed(nn.Module):
    """Rows of unequal lengths."""

    def __init__(self, kind, batch_first=True, is_sorted=True):
        super().__init__()
        self.options = {"batch_first": batch_first}
        self.is_sorted = is_sorted
        self.rnn = getattr(nn, kind)(3, 5, bidirectional=True, **self.options)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(
            x, lengths, enforce_sorted=self.is_sorted, **self.options
        )  # fmt: skip
        return pad_packed_sequence(self.rnn(packed)[0], **self.options)


class Speech(nn.Module):
    """Convolutions over time and frequency, lengths that they halve, layers of packed rows."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Hardtanh(0, 20),
            nn.Conv2d(4, 4, 3, stride=(2, 1), padding=1, groups=2), nn.GELU(),
        )  # fmt: skip
        self.gru = nn.GRU(4, 5, batch_first=True, bidirectional=True, num_layers=2)
        self.linear = nn.Linear(10, 3)

    def forward(self, x, lengths):
        y = self.conv(x.unsqueeze(1).transpose(2, 3))
        batch, channels, frequencies, time = y.shape
        y = y.view(batch, channels * frequencies, time).transpose(1, 2)
        lengths = (lengths + 1) // 2
        packed = pack_padded_sequence(y, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        return self.linear(y).log_softmax(-1), lengths


class Normed(nn.Module):
    def __init__(self, approximate):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 6), nn.LayerNorm(6)
        self.gelu, self.lstm = nn.GELU(approximate), nn.LSTM(6, 5, batch_first=True)

    def forward(self, x):
        return self.lstm(self.gelu(self.norm(self.linear(x))))[0]


class Mixed(nn.Module):
    """Residual and gated convolutions, pools that look further, sizes that are computed."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv1d(3, 6, 3, padding=2, dilation=2), nn.BatchNorm1d(6)
        self.each, self.slope = nn.Conv1d(6, 6, 3, padding=1, groups=6), nn.PReLU(6)
        self.pool, self.mean = nn.MaxPool1d(3, 2, padding=1, ceil_mode=True), nn.AvgPool1d(2, 2)
        self.lstm, self.linear = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x):
        y = self.norm(self.first(x))
        y = nn.functional.silu(self.pool(y + self.slope(self.each(y))))
        y = self.mean(nn.functional.glu(torch.cat([y, y], 1), 1))
        steps, (h, _) = self.lstm(y.transpose(1, 2))
        unit = nn.functional.normalize(self.linear(h[-1]), dim=-1)
        return unit, nn.functional.hardswish(steps), nn.functional.pad(steps, (1, 2), value=0.5)


class Answers(nn.Module):
    """Two sequences of ids, attention between them, means over those that are no padding."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.encoder = nn.GRU(4, 5, batch_first=True, bidirectional=True)
        self.bridge, self.decoder = nn.Linear(10, 5), nn.GRU(4, 5, batch_first=True)
        self.linear = nn.Linear(10, 11)

    def forward(self, asked, said):
        kept = (asked != 0).unsqueeze(-1).float()
        y, h = self.encoder(self.table(asked))
        mean = (y * kept).sum(1) / kept.sum(1).clamp(min=1)
        h = torch.tanh(self.bridge(torch.cat([h[0], h[1]], 1)))[None]
        queries, _ = self.decoder(self.table(said), h)
        keys = self.bridge(y)
        weights = torch.softmax(queries @ keys.transpose(1, 2) / 5**0.5, -1)
        return self.linear(torch.cat([weights @ keys, queries], -1)), mean, y.max(1)[0], y[:, ::2]


class Last(nn.Module):
    """The output at each row's last step."""

    def __init__(self):
        super().__init__()
        self.lstm, self.linear = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x, lengths):
        y, _ = self.lstm(x)
        places = (lengths - 1).view(-1, 1, 1).expand(-1, 1, 5)
        return torch.sigmoid(self.linear(y.gather(1, places).squeeze(1)))


def numbers(*sizes):
    return lambda rng, free: rng.normal(size=[free.get(n, n) for n in sizes]).astype("float32")


def lengths(descending=False):
    def draw(rng, free):
        values = rng.integers(1, free["t"] + 1, free["b"])
        values[0] = free["t"]
        return np.sort(values)[::-1].copy() if descending else values

    return draw


def ids(*sizes):
    return lambda rng, free: rng.integers(0, 11, [free[n] for n in sizes])


X = numbers("b", "t", 3)
# The module, its inputs with the places of sizes that are free, and what exports it.
MODELS = {
    "sound": (Sound, [(numbers("b", 3, "t"), {0: "b", 2: "t"})], "old"),
    "lines": (lambda: Lines(False), [(numbers("b", 1, 8, "t"), {0: "b", 3: "t"})], "old"),
    "lines, batch first": (
        lambda: Lines(True), [(numbers("b", 1, 8, "t"), {0: "b", 3: "t"})], "both"
    ),
    "packed LSTM": (
        lambda: Packed("LSTM"), [(X, {0: "b", 1: "t"}), (lengths(True), {0: "b"})], "old"
    ),
    "packed GRU, time first": (
        lambda: Packed("GRU", batch_first=False),
        [(numbers("t", "b", 3), {0: "t", 1: "b"}), (lengths(True), {0: "b"})],
        "old",
    ),
    "packed RNN, not sorted": (
        lambda: Packed("RNN", is_sorted=False),
        [(X, {0: "b", 1: "t"}), (lengths(), {0: "b"})],
        "old",
    ),
    "speech": (
        Speech, [(numbers("b", "t", 4), {0: "b", 1: "t"}), (lengths(), {0: "b"})], "old"
    ),
    "normed": (lambda: Normed("none"), [(X, {0: "b", 1: "t"})], "both"),
    "normed, tanh": (lambda: Normed("tanh"), [(X, {0: "b", 1: "t"})], "old"),
    "mixed": (Mixed, [(numbers("b", 3, "t"), {0: "b", 2: "t"})], "both"),
    "answers": (
        Answers, [(ids("b", "t"), {0: "b", 1: "t"}), (ids("b", "u"), {0: "b", 1: "u"})], "both"
    ),
    "last": (Last, [(X, {0: "b", 1: "t"}), (lengths(), {0: "b"})], "both"),
}  # fmt: skip
# What the others hold, too. Of the newer exporter, which takes long, the slow part has one model.
LONG = {("answers", True), ("mixed", True)}
SLOW = {
    *LONG, ("answers", False), ("normed", True), ("normed, tanh", False),
    ("packed GRU, time first", False),
}  # fmt: skip
EXPORTS = [
    pytest.param(
        name,
        dynamo,
        marks=[pytest.mark.slow] * ((name, dynamo) in SLOW)
        + [pytest.mark.long] * ((name, dynamo) in LONG),
    )
    for name, (*_, exporters) in MODELS.items()
    for dynamo in ((False, True) if exporters == "both" else (False,))
]
SIZES = ({"b": 3, "t": 12, "u": 7}, {"b": 2, "t": 17, "u": 4}, {"b": 1, "t": 9, "u": 9})


def exported(name, path, dynamo):
    """Writes a model at the first sizes; the others are compared, too."""
    make, inputs, _ = MODELS[name]
    torch.manual_seed(1)
    module = make().eval()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    rng = np.random.default_rng(0)
    example = tuple(torch.from_numpy(draw(rng, SIZES[0])) for draw, _ in inputs)
    names = [f"i{n}" for n in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            auto = torch.export.Dim.AUTO
            free = {"dynamic_shapes": tuple(dict.fromkeys(one, auto) for _, one in inputs)}
        else:
            free = {"dynamic_axes": dict(zip(names, (one for _, one in inputs), strict=True))}
        torch.onnx.export(
            module, example, str(path), dynamo=dynamo, input_names=names, verbose=False, **free
        )
    return inputs


@pytest.mark.sampled
@pytest.mark.parametrize("name, dynamo", EXPORTS)
def test_what_pytorch_exports_around_recurrent_layers_is_read(name, dynamo, tmp_path):
    if dynamo:
        pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    inputs = exported(name, path, dynamo)
    model = from_onnx(path)
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    outputs = [output.name for output in onnx.load(path).graph.output]
    for seed, free in enumerate(SIZES):
        rng = np.random.default_rng(seed)
        given = {f"i{n}": draw(rng, free) for n, (draw, _) in enumerate(inputs)}
        expected = ask_onnxruntime(str(path), given)
        received = model([*given.values()] if len(given) > 1 else given["i0"])
        received = [received[n] for n in outputs] if len(outputs) > 1 else [received]
        for a, b in zip(received, expected, strict=True):
            assert_allclose(a, b, atol=1e-5)


class RowsFirst(nn.Module):
    """States whose first axis is the batch, as a model for several devices takes them."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, h, c):
        y, finals = self.lstm(x, (h.transpose(0, 1), c.transpose(0, 1)))
        return y, *(state.transpose(0, 1) for state in finals)


def test_initial_states_with_the_batch_first_are_read(tmp_path):
    example = torch.zeros(2, 5, 3), torch.zeros(2, 1, 4), torch.zeros(2, 1, 4)
    path, names = str(tmp_path / "model.onnx"), ["x", "h", "c"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(RowsFirst(), example, path, dynamo=False, input_names=names)
    rng = np.random.default_rng(0)
    given = {
        name: rng.normal(size=part.shape).astype("float32")
        for name, part in zip(names, example, strict=True)
    }
    received = from_onnx(path)(given)
    outputs = [output.name for output in onnx.load(path).graph.output]
    for name, expected in zip(outputs, ask_onnxruntime(path, given), strict=True):
        assert_allclose(received[name], expected, atol=1e-5)


def test_a_size_that_the_newer_exporter_wrote_down_is_refused(tmp_path):
    """Of time-major layers it writes the example's number of steps."""
    pytest.importorskip("onnxscript")
    exported("lines", tmp_path / "model.onnx", dynamo=True)
    with pytest.raises(ValueError, match=r"an axis of unknown size one of 12.*dynamo=False"):
        from_onnx(tmp_path / "model.onnx")
    layer = from_onnx(tmp_path / "model.onnx", node=0)
    assert layer.forward_layer.units == 5
