"""`examples/ask.py`, asked about the models in `saved_models/`."""

import functools
import pathlib
import re
import shutil

import ask
import challenge
import keras
import look_inside
import pytest
import tensorflow as tf

import keras_gated

SHAKESPEARE = str(pathlib.Path(__file__).parent.parent / "saved_models" / "shakespeare")


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.saved_model, "load", functools.cache(tf.saved_model.load))
        yield


def asked(monkeypatch, *arguments, model=SHAKESPEARE):
    monkeypatch.setattr("sys.argv", ["ask.py", model, *arguments])
    ask.main()


def test_characters_that_the_model_does_not_know_are_said(monkeypatch, capsys):
    asked(monkeypatch, "ROMEO:", "Zo\u00eb: 1\u20ac", "--length", "5")
    said = capsys.readouterr()
    assert said.out.startswith("ROMEO:") and "Zo\u00eb: 1\u20ac" in said.out
    # The 65 characters of Shakespeare's plays hold no digit but 3, and no accent.
    assert said.err.strip().endswith("does not know them: 1 \u00eb \u20ac")
    asked(monkeypatch, "ROMEO:", "--length", "5")
    assert capsys.readouterr().err == ""


def test_a_refusal_of_the_model_is_said(monkeypatch):
    with pytest.raises(SystemExit, match="temperature"):
        asked(monkeypatch, "ROMEO:", "--temperature", "-1")


@pytest.mark.parametrize("option, value", [
    ("--length", "4294967299"), ("--top-k", "4294967297"), ("--temperature", "nan"),
    ("--seed", "99999999999999999999"),
])  # fmt: skip
def test_numbers_that_the_model_cannot_hold_are_refused(option, value, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        asked(monkeypatch, "ROMEO:", option, value)
    assert f"argument {option}: must be " in capsys.readouterr().err


def test_a_text_that_is_not_utf_8_has_an_answer(monkeypatch, capsys):
    sentiment = str(pathlib.Path(SHAKESPEARE).with_name("sentiment"))
    asked(monkeypatch, "a dull film \udcff", model=sentiment)
    assert re.fullmatch(r"negative  0\.\d{3}  a dull film \ufffd\n", capsys.readouterr().out)


def test_a_model_that_answers_no_texts_is_named_with_what_it_takes(monkeypatch, tmp_path):
    x = keras.Input((None, 3), name="series")
    version = keras_gated.export_model(keras.Model(x, keras_gated.GRU(2, name="gru")(x)), tmp_path)
    said = r"no sentiment model, .*Received: from \['series'\] to \['gru'\]\."
    with pytest.raises(SystemExit, match=said):
        asked(monkeypatch, "ROMEO:", model=version)


@pytest.mark.parametrize("cut, program", [
    ("saved_model.pb", ask), ("variables/variables.index", ask),
    ("variables/variables.data-00000-of-00001", challenge),
    ("assets.extra/model.keras", look_inside), ("assets.extra/reader.json", look_inside),
])  # fmt: skip
def test_a_damaged_model_is_named(cut, program, monkeypatch, tmp_path):
    sentiment = pathlib.Path(SHAKESPEARE).with_name("sentiment")
    shutil.copytree(ask.newest_version(sentiment), tmp_path / "1")
    (tmp_path / "1" / cut).write_bytes((tmp_path / "1" / cut).read_bytes()[:40])
    with pytest.raises(SystemExit, match=rf"{tmp_path}/1.* holds a model that does not load: "):
        program.load(tmp_path)


def test_the_newest_version_is_found_whatever_zeros_its_name_begins_with(tmp_path):
    for name in ("9", "00010", "x"):
        (tmp_path / name).mkdir()
    assert ask.newest_version(tmp_path) == tmp_path / "00010"
