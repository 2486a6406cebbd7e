"""What a newcomer does: train, export, ask."""

import json
import math
import types
import warnings

import characters
import compare_cells
import keras
import numpy as np
import pytest
import scripts
import sentiment
import tensorflow as tf
from scripts import result, run, said_here

from keras_gated.datasets import toy_plays

pytestmark = pytest.mark.slow


def learned_order_and_context(answer, folder):
    assert answer["test_accuracy"] > 0.95  # a bag of words stays below 0.63: test_datasets.py
    assert answer["saved_model"] == "saved_models/toy_reviews/1"
    texts = {
        "The plot was not awful, it was truly gripping.": "positive",
        "The plot was not gripping, it was truly awful.": "negative",
        "The cast was superb, but the ending was dreadful.": "negative",
        "The cast was dreadful, but the ending was superb.": "positive",
    }
    said = said_here("ask.py", folder / "saved_models/toy_reviews", *texts)
    assert [line.split()[0] for line in said.splitlines()] == list(texts.values())


def test_sentiment_learns_order_and_context_and_its_export_answers(trained):
    [answer] = [json.loads(line) for line in trained.demo.stdout.splitlines() if line[:1] == "{"]
    learned_order_and_context(answer, trained.folder)
    assert answer["cell"] == "lstm" and answer["dataset"] == "toy_reviews"
    assert {"units", "epochs", "seconds", "test_loss", "parameters"} <= set(answer)


@pytest.mark.long
def test_sentiment_learns_with_another_cell_and_with_n_grams(tmp_path, data_dir):
    answer = scripts.sentiment("gru", tmp_path, data_dir)
    learned_order_and_context(answer, tmp_path)
    assert answer["cell"] == "gru"


def test_characters_learns_and_its_export_continues_a_prompt(trained):
    answer = trained.characters
    # Guessing by the frequency of characters alone costs about 3 nats.
    assert answer["loss_nats"] < 1.5
    assert answer["bits_per_character"] == pytest.approx(answer["loss_nats"] / 0.693147, rel=1e-3)
    assert answer["saved_model"] == "saved_models/toy_plays/1" and answer["cell"] == "lstm"
    model = trained.folder / answer["saved_model"]
    said = said_here("ask.py", model, "ALMA:\n", "--length", 50)
    assert said.startswith("ALMA:\n") and len(said) == len("ALMA:\n") + 50 + 1


def test_families_are_compared_with_as_many_weights_and_as_much_time(data_dir):
    known = len(set(toy_plays.generate("train")))
    layers = {  # weights by units, of 64 features
        "MGU": lambda u: 2 * u * (64 + u + 1),
        "MinGRU": lambda u: 2 * u * (64 + 1),
    }
    options = ["--dataset", "toy_plays", "--data-dir", data_dir, "--parameters", 30_000]
    options += ["--minutes", 0.05, "--steps", 50, "--batch-size", 16, "--draws", 2]
    said = said_here("compare_cells.py", *options, "--cells", "mgu", "min_gru")
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[2:]] == [*layers]
    for name, units, parameters, steps, ms, *nats in rows[2:]:
        units, parameters = int(units), int(parameters)
        assert parameters == (known + 2) * 64 + layers[name](units) + (units + 1) * known
        assert abs(parameters - 30_000) <= 600
        assert 750 < int(steps) * float(ms) < 12_000  # 3 seconds, on a machine that may be busy
        assert all(float(value) < math.log(known) for value in nats)  # better than blind guesses


def test_a_comparison_undoes_what_it_measured_and_ends_with_a_rate_near_zero():
    ids = tf.constant(np.tile([2, 3, 5, 2, 4, 6, 7, 3, 2, 5], 100))
    args = {"minutes": 0.02, "rate": 0.01, "batch_size": 4, "steps": 10, "seed": 1}
    model, _ = characters.build_model(6, "gru", 4, 1, dropout=0, rows=4)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    steps, _ = compare_cells.train(model, types.SimpleNamespace(**args), [ids, ids])
    assert model.optimizer.iterations == steps
    # The last rate of a cosine that is zero one step later.
    expected = 0.005 * (1 - math.cos(math.pi / (steps - steps // 20)))
    assert float(model.optimizer.learning_rate) == pytest.approx(expected, rel=0.05, abs=1e-8)


def test_a_pytorch_classifier_is_converted_with_its_answers():
    torch = pytest.importorskip("torch")
    convert = pytest.importorskip("convert")
    torch.manual_seed(1)
    classifier = convert.Classifier(9, 3).eval()
    ids = np.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    with torch.no_grad():
        expected = torch.sigmoid(classifier(torch.from_numpy(ids)))
    answer = convert.converted(classifier)(ids)
    np.testing.assert_allclose(answer[:, 0], expected, atol=1e-6)


def test_a_pytorch_classifier_learns_from_read_only_arrays_without_a_warning():
    torch = pytest.importorskip("torch")
    convert = pytest.importorskip("convert")
    ids, labels = np.array([[1, 2, 3], [4, 5, 0]]), np.array([0, 1])
    ids.flags.writeable = labels.flags.writeable = False  # as data sets give them
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # PyTorch gives such a warning once in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            convert.train(convert.Classifier(9, 3), [(ids, labels)], 1)
    finally:
        torch.set_warn_always(before)


@pytest.mark.long
def test_a_pytorch_model_answers_the_same_wherever_it_is_taken(tmp_path, data_dir):
    for package in ("torch", "onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package)
    options = ["--dataset", "toy_reviews", "--data-dir", data_dir, "--units", 16, "--epochs", 2]
    answer = result(run("convert.py", *options, cwd=tmp_path))
    assert answer["test_accuracy"] > 0.65  # a bag of words stays below 0.63: test_datasets.py
    differences = answer["largest_difference"]
    assert set(differences) == {"keras", "onnx", "served", "litert"}
    assert max(differences.values()) < 1e-5
    asked = run("ask.py", "saved_models/from_torch", "The plot was superb.", cwd=tmp_path)
    assert asked.stdout.split()[0] in ("positive", "negative")


def test_a_file_of_keras_2_with_a_cudnn_layer_answers_the_same_when_it_is_served(
    tmp_path, data_dir
):
    for package in ("torch", "tf_keras"):  # the script has both stories
        pytest.importorskip(package)
    options = ["--dataset", "toy_reviews", "--data-dir", data_dir, "--units", 16, "--epochs", 1]
    said = said_here("convert.py", "--source", "keras2", *options, cwd=tmp_path)
    assert "from_keras: the largest difference from the original is" in said
    assert json.loads(said.splitlines()[-1])["largest_difference"]["served"] < 1e-5
    asked = said_here("ask.py", tmp_path / "saved_models/from_keras2", "The plot was superb.")
    assert asked.split()[0] in ("positive", "negative")


@pytest.mark.long
def test_a_signal_is_answered_alike_step_by_step_in_every_runtime(tmp_path):
    for package in ("onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package)
    printed = run("stream.py", "--steps", 200, cwd=tmp_path).stdout.splitlines()
    results = [json.loads(line) for line in printed if line[:1] == "{"]
    assert [r["runtime"] for r in results] == [
        "TensorFlow", "onnxruntime", "onnxruntime, 8 bits", "LiteRT", "LiteRT, 8 bits"
    ]  # fmt: skip
    assert all(r["difference"] < 1e-5 for r in results if "8 bits" not in r["runtime"])
    assert all(r["accuracy"] > 0.9 for r in results)  # always "no fault": 0.63


@pytest.mark.long
def test_runtimes_give_the_same_answers_and_8_bits_nearly_the_same(tmp_path):
    for package in ("onnxruntime", "ai_edge_litert", "openvino"):
        pytest.importorskip(package)
    sizes = ("--reviews", 20, "--rows", 2, "--calls", 2)
    printed = run("benchmark_runtimes.py", "--toy", *sizes, cwd=tmp_path).stdout.splitlines()
    results = [json.loads(line) for line in printed if line[:1] == "{"]
    assert len(results) == 12
    for name in ("sentiment", "shakespeare"):
        first, *others = [r for r in results if r["model"] == name]
        for other in others:
            allowed = 1e-3 if other["bits"] == 32 else 0.02
            assert abs(other["nats"] - first["nats"]) < allowed


@pytest.mark.parametrize("script, offline", [
    (sentiment, "toy_reviews"), (characters, "toy_plays"),
])  # fmt: skip
def test_without_network_and_data_the_way_out_is_said(
    script, offline, tmp_path, monkeypatch, no_network
):
    monkeypatch.setattr("sys.argv", [script.__name__, "--data-dir", str(tmp_path)])
    with pytest.raises(ConnectionError, match=f"TFDS_DATA_DIR.*--dataset {offline}"):
        script.main()


@pytest.mark.parametrize(
    "option, value",
    [
        ("--units", "0"),
        ("--buckets", "-1"),
        ("--cell", "lstmm"),
        ("--epochs", "x"),
        ("--output", __file__),
    ],
)
def test_rubbish_options_are_refused_by_name(option, value, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sentiment.py", option, value])
    with pytest.raises(SystemExit, match=r"^2$"):
        sentiment.main()
    assert option in capsys.readouterr().err
