"""What a newcomer does: train, export, ask, each in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(script, *arguments, cwd, env=None):
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def result(process):
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_sentiment_learns_order_and_context_and_its_export_answers(cell, tmp_path, data_dir):
    options = ["--dataset", "toy_reviews", "--data-dir", data_dir, "--cell", cell]
    options += ["--units", 32, "--epochs", 6]
    answer = result(run("sentiment.py", *options, cwd=tmp_path))
    assert answer["test_accuracy"] > 0.95  # a bag of words stays below 0.63: test_datasets.py
    assert answer["cell"] == cell and answer["dataset"] == "toy_reviews"
    assert {"units", "epochs", "seconds", "test_loss", "parameters"} <= set(answer)
    assert answer["saved_model"] == "saved_models/toy_reviews/1"

    texts = {
        "The plot was not awful, it was truly gripping.": "positive",
        "The plot was not gripping, it was truly awful.": "negative",
        "The cast was superb, but the ending was dreadful.": "negative",
        "The cast was dreadful, but the ending was superb.": "positive",
    }
    asked = run("ask.py", "saved_models/toy_reviews", *texts, cwd=tmp_path)
    assert [line.split()[0] for line in asked.stdout.splitlines()] == list(texts.values())


def test_characters_learns_and_its_export_continues_a_prompt(tmp_path, data_dir):
    options = ["--dataset", "toy_plays", "--data-dir", data_dir, "--cell", "gru", "--units", 64]
    options += ["--epochs", 2, "--batch-size", 16, "--name", "plays", "--output", "exports"]
    answer = result(run("characters.py", *options, cwd=tmp_path))
    # Guessing by the frequency of characters alone costs about 3 nats.
    assert answer["loss_nats"] < 1.5
    assert answer["bits_per_character"] == pytest.approx(answer["loss_nats"] / 0.693147, rel=1e-3)
    assert answer["saved_model"] == "exports/plays/1"
    asked = run("ask.py", "exports/plays", "ALMA:\n", "--length", 50, cwd=tmp_path)
    assert asked.stdout.startswith("ALMA:\n") and len(asked.stdout) == len("ALMA:\n") + 50 + 1


def test_a_pytorch_model_answers_the_same_wherever_it_is_taken(tmp_path, data_dir):
    for package in ("torch", "onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package)
    options = ["--dataset", "toy_reviews", "--data-dir", data_dir, "--units", 16, "--epochs", 2]
    answer = result(run("convert.py", *options, cwd=tmp_path))
    assert answer["test_accuracy"] > 0.65  # a bag of words stays below 0.63: test_datasets.py
    differences = answer["largest_difference_from_torch"]
    assert set(differences) == {"keras", "onnx", "served", "litert"}
    assert max(differences.values()) < 1e-5
    asked = run("ask.py", "saved_models/from_torch", "The plot was superb.", cwd=tmp_path)
    assert asked.stdout.split()[0] in ("positive", "negative")


@pytest.mark.parametrize("script, offline", [
    ("sentiment.py", "toy_reviews"), ("characters.py", "toy_plays"),
])  # fmt: skip
def test_without_network_and_data_the_way_out_is_printed(script, offline, tmp_path):
    refused = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    process = run(script, "--data-dir", tmp_path, cwd=tmp_path, env=refused)
    assert process.returncode != 0
    [line] = process.stderr.strip().splitlines()[-1:]
    assert "TFDS_DATA_DIR" in line and f"--dataset {offline}" in line


@pytest.mark.parametrize(
    "option, value", [("--units", "0"), ("--buckets", "-1"), ("--cell", "lstmm"), ("--epochs", "x")]
)
def test_rubbish_options_are_refused_by_name(option, value, tmp_path):
    process = run("sentiment.py", option, value, cwd=tmp_path)
    assert process.returncode == 2 and option in process.stderr
