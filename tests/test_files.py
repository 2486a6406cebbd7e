"""Files: those of every version load for ever, and broken or hostile ones do no harm."""

import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

import keras_gated

FILES = pathlib.Path(__file__).parent / "files"
VERSIONS = sorted(p.name for p in FILES.iterdir() if p.name[0].isdigit())
LOAD = """
import os, sys, numpy as np, tensorflow as tf
versions = sys.argv[1:]
def close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-6, err_msg=os.getcwd())
for version in versions:
    os.chdir(version)
    answers = np.load("answers.npz")
    ask = tf.saved_model.load("saved_model").signatures["serving_default"]
    [small] = ask(x=tf.constant(answers["x"])).values()
    close(small, answers["small"])
assert "keras_gated" not in sys.modules

import keras, keras_gated
for version in versions:
    os.chdir(version)
    answers = np.load("answers.npz")
    model = keras.saving.load_model("everything.keras")
    def check():
        for i, y in enumerate(model(answers["x"])):
            close(y, answers[f"output_{i}"])
    check()
    model.set_weights([w * 0 for w in model.get_weights()])
    model.load_weights("everything.weights.h5")
    check()
    stateful = keras.saving.load_model("stateful.keras")
    close(stateful(answers["x"]), answers["stateful"])
"""


@pytest.mark.slow
def test_saved_models_of_all_versions_load_without_the_package_and_files_with_its_import():
    folders = [FILES / version for version in VERSIONS]
    subprocess.run([sys.executable, "-c", LOAD, *folders], check=True)


def test_this_version_has_files():
    assert keras_gated.__version__ in VERSIONS


def rewritten(tmp_path, edit):
    """A copy of a `.keras` file whose config `edit` has changed."""
    source, target = FILES / VERSIONS[-1] / "stateful.keras", tmp_path / "model.keras"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                [layer] = [x for x in config["config"]["layers"] if x["class_name"] == "LSTM"]
                edit(layer["config"])
                content = json.dumps(config)
            new.writestr(name, content)
    return target


def lambda_that_writes(path):
    """A serialized lambda, as Keras stores one; run, it would create the file."""
    return keras.saving.serialize_keras_object(lambda x, path=str(path): open(path, "w") and x)


@pytest.mark.parametrize("edit, message", [
    (lambda c: c.update(units=-1), "`units` must be a positive integer"),
    (lambda c: c.update(units="__import__('os')"), "`units` must be a positive integer"),
    (lambda c: c.update(colour="red"), "colour"),
    (lambda c: c.update(dropout=7), "`dropout` must be a number from 0 to 1"),
    (lambda c: c.update(activation="os.system"), "`activation` must be"),
    (lambda c: c.update(activation={"module": "os", "class_name": "system", "config": "true",
                                    "registered_name": None}), "activation|system"),
])  # fmt: skip
def test_a_broken_or_hostile_config_is_an_error(edit, message, tmp_path):
    with pytest.raises((ValueError, TypeError), match=message):
        keras.saving.load_model(rewritten(tmp_path, edit))


def test_code_in_a_config_is_not_run(tmp_path):
    target = tmp_path / "written"
    code = lambda_that_writes(target)
    with pytest.raises((ValueError, TypeError)):
        keras.saving.load_model(rewritten(tmp_path, lambda c: c.update(activation=code)))
    config = {**keras_gated.LSTM(2).get_config(), "activation": code}
    with pytest.raises((ValueError, TypeError)):
        keras_gated.LSTM.from_config(config)(np.ones((1, 2, 3)))
    assert not target.exists()


def test_a_truncated_file_is_an_error(tmp_path):
    whole = (FILES / VERSIONS[-1] / "stateful.keras").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.keras").write_bytes(whole[:size])
        with pytest.raises((ValueError, OSError, zipfile.BadZipFile)):
            keras.saving.load_model(tmp_path / "cut.keras")


@pytest.mark.parametrize("other", [
    {"units": 4}, {"units": 3, "use_bias": False}, {"units": 3, "features": 5},
])  # fmt: skip
def test_weights_that_do_not_fit_are_refused_and_overwrite_nothing(family, other, tmp_path):
    def model(units, features=2, **options):
        x = keras.Input((None, features))
        return keras.Model(x, family.make(units, **options)(x))

    model(3).save_weights(tmp_path / "of.weights.h5")
    target = model(**other)
    before = target.get_weights()
    with pytest.raises(ValueError, match=r"Expected the shapes .*Nothing was loaded into this"):
        target.load_weights(tmp_path / "of.weights.h5")
    for a, b in zip(before, target.get_weights(), strict=True):
        assert_allclose(a, b)


def gru_models(kind):
    """A model of ours and one of Keras's, with a layer or with a cell inside Keras's RNN."""
    models = []
    for module in (keras_gated, keras.layers):
        inputs = keras.Input((None, 2))
        cell = module.GRUCell(3, name="cell") if kind == "cell" else None
        layer = keras.layers.RNN(cell) if cell else module.GRU(3, name="gru")
        models.append(keras.Model(inputs, layer(inputs)))
    return models


@pytest.mark.parametrize("kind", ["layer", "cell"])
def test_gru_weights_of_keras_are_loaded_with_a_warning_and_ours_without(kind, tmp_path, recwarn):
    ours, theirs = gru_models(kind)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    with pytest.warns(UserWarning, match=r"before version 0.2.*keras_gated.from_keras"):
        ours.load_weights(tmp_path / "theirs.weights.h5")
    recwarn.clear()
    ours.save_weights(tmp_path / "ours.weights.h5")
    ours.save(tmp_path / "ours.keras")
    ours.load_weights(tmp_path / "ours.weights.h5")
    keras.saving.load_model(tmp_path / "ours.keras")
    assert not [w for w in recwarn if "GRU" in str(w.message)]
    with pytest.raises(ValueError, match="variables"):
        theirs.load_weights(tmp_path / "ours.weights.h5")


def test_files_of_before_the_mark_load_with_the_warning():
    with pytest.warns(UserWarning, match=r"If keras_gated wrote it before version 0.2, they are"):
        keras.saving.load_model(FILES / "0.1.0" / "everything.keras")


def test_a_saved_model_can_be_copied_anywhere(tmp_path):
    shutil.copytree(FILES / VERSIONS[-1] / "saved_model", tmp_path / "elsewhere")
    loaded = tf.saved_model.load(tmp_path / "elsewhere")
    assert "serving_default" in loaded.signatures
