"""`japanese_vowels` is read from an installed aeon, and the example trains on unequal lengths."""

import json
import sys

import numpy as np
import pytest
import stand_in_aeon
import tensorflow as tf
import vowels
from numpy.testing import assert_allclose, assert_array_equal
from scripts import said_here

from keras_gated import datasets
from keras_gated.datasets import japanese_vowels


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The made-up data set, prepared."""
    folder = tmp_path_factory.mktemp("made_up")
    stand_in_aeon.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        datasets.load("japanese_vowels", str(folder / "data"))
    return str(folder / "data")


def test_a_line_is_channels_of_steps_and_a_label(tmp_path):
    path = tmp_path / "a.ts"
    path.write_text("# said: 1,2\n@dimensions 2\n@DATA\n1,2.5,-3:4,5,6e-1:7\n8:9:2\n")
    [(first, seven), (second, two)] = japanese_vowels.read_ts(path)
    assert_array_equal(first, np.array([[1, 4], [2.5, 5], [-3, 0.6]], "float32"))
    assert_array_equal(second, [[8, 9]])
    assert (seven, two) == ("7", "2") and first.dtype == "float32"


@pytest.mark.parametrize("line", ["1,2:3:1", "1,?:2,3:1"])
def test_a_line_that_is_no_series_is_shown(line, tmp_path):
    path = tmp_path / "a.ts"
    path.write_text(f"@data\n{line}\n")
    with pytest.raises(ValueError, match=r"as many numbers.*Received: .*a\.ts") as error:
        list(japanese_vowels.read_ts(path))
    assert line in str(error.value)


def test_the_series_keep_their_order_and_lengths(data_dir):
    train, test = datasets.load("japanese_vowels", data_dir).values()
    assert len(train) == len(test) == 45
    assert [int(x["label"]) for x in train] == list(np.repeat(range(9), 5))
    lengths = {x["series"].shape[0] for x in train}
    assert 7 <= min(lengths) < max(lengths) <= 29
    assert_allclose([np.mean(x["series"]) for x in train], np.repeat(range(1, 10), 5), atol=0.5)


def test_without_aeon_what_to_install_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "aeon", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps aeon.*TFDS_DATA_DIR"):
        datasets.load("japanese_vowels", str(tmp_path))


def test_an_aeon_without_the_files_is_named(tmp_path, monkeypatch):
    (tmp_path / "aeon").mkdir()
    (tmp_path / "aeon" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"Received: no folder {tmp_path}/aeon/datasets"):
        japanese_vowels.folder_of_aeon()


@pytest.mark.slow
def test_the_script_trains_and_its_export_reads_a_series_as_long_as_said(data_dir, tmp_path):
    options = ["--cell", "simple_rnn", "--units", 4, "--epochs", 1, "--batch-size", 40]
    options += ["--data-dir", data_dir, "--output", tmp_path]
    result = json.loads(said_here("vowels.py", *options).splitlines()[-1])
    assert {"seconds", "seconds_of_an_epoch", "validation_accuracy"} <= set(result)
    assert 0 <= result["test_accuracy"] <= 1 and 0 < result["padding"] < 1
    answer = tf.saved_model.load(result["saved_model"]).signatures["serving_default"]
    series = np.random.default_rng(0).normal(size=(1, 9, 12)).astype("float32")
    probabilities = [
        answer(series=tf.constant(x), lengths=tf.constant([7]))["speaker"]
        for x in (series, series[:, :7])
    ]
    assert_allclose(*probabilities, atol=1e-6)


def test_the_model_of_torch_starts_with_the_same_answers(data_dir):
    pytest.importorskip("torch")
    vowels_torch = pytest.importorskip("vowels_torch")
    train, *_ = vowels.read(data_dir)
    steps = tf.concat([x["series"] for x, _ in train], axis=0)
    model = vowels.build_model("simple_rnn", 3, 0.5, steps)
    [(x, labels)] = train.padded_batch(40)
    expected = -np.log(np.take_along_axis(model(x).numpy(), labels[:, None].numpy(), 1)).mean()
    found = vowels_torch.evaluate(vowels_torch.of_keras(model, 0.5), train.padded_batch(20))
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_padding_that_is_skipped_is_told_from_padding_that_is_computed():
    """Two groups of eight rows: the one runs 10 steps and the other 2, so none is padding."""
    lengths = np.array([10, 2] * 8, "int32")
    batch = [({"series": tf.zeros((16, 10, 12)), "lengths": lengths}, None)]
    for peer, skipped in (("keras", 0), ("torch", 1), (None, 1)):
        assert vowels.padding(batch, peer) == pytest.approx((0.4, skipped))
