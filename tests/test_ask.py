"""`examples/ask.py`, asked about the models in `saved_models/`."""

import pathlib

import ask
import pytest

SHAKESPEARE = str(pathlib.Path(__file__).parent.parent / "saved_models" / "shakespeare")


def asked(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["ask.py", SHAKESPEARE, *arguments])
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
