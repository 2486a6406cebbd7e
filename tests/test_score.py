"""`examples/score.py`: every row of a corpus is scored or set aside, once, on Apache Beam.

`make beam` runs these tests, in an environment of their own: Beam wants protobuf < 7.
"""

import fcntl
import gzip
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from scripts import EXAMPLES, ROOT, result, run, said_here

from keras_gated import datasets

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="Apache Beam is not installed: it wants protobuf < 7 (`make beam`)",
)
MODEL = str(ROOT / "saved_models" / "sentiment" / "1")
TEXTS = [
    "A moving film, wonderfully acted.",
    "Boring.",
    "I liked it. " * 40,
    "na\u00efve, caf\u00e9",
    "The worst film of the year.",
]
TWO_WORKERS = ["--direct_num_workers", 2, "--direct_running_mode", "multi_processing"]


def answers(texts, model=MODEL):
    """Returns the probabilities of a direct call for each text alone."""
    loaded = tf.saved_model.load(model)
    ask = loaded.signatures["serving_default"]
    return [float(ask(text=tf.constant([text]))["probability"][0]) for text in texts]


def read_back(output, name="scores"):
    """Returns the lines of all shards by the rows' names, of which none may come twice."""
    files = pathlib.Path(output).glob(f"{name}-*-of-*.jsonl")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    rows = {line["row"]: line for line in lines}
    assert len(rows) == len(lines)
    return rows


def scored(output, *options, model=MODEL):
    """Returns the summary of a run in this process."""
    said = said_here("score.py", "--model", model, "--output", output, *options)
    return json.loads(said.splitlines()[-1])


def example(**features):
    kinds = {
        name: {"bytes_list": {"value": [value]}}
        if isinstance(value, bytes)
        else {"int64_list": {"value": [value]}}
        for name, value in features.items()
    }
    return tf.train.Example(features={"feature": kinds}).SerializeToString()


def write(folder, name, texts):
    """Writes texts as what the name says, and returns the path and the options to read it."""
    path = folder / name
    if name.endswith(".txt"):
        path.write_text("\n".join(texts) + "\n")
    elif ".jsonl" in name:
        opened = gzip.open if name.endswith(".gz") else open
        with opened(path, "wt") as file:
            file.writelines(json.dumps({"text": text, "id": text[:3]}) + "\n" for text in texts)
    else:
        kind = example if "example" in name else lambda text: text
        with tf.io.TFRecordWriter(str(path)) as file:
            for text in texts:
                file.write(kind(text=text.encode()) if "example" in name else text.encode())
    return ["--input", path, *(["--format", "examples"] if "example" in name else [])]


@needs_beam
@pytest.mark.parametrize(
    "name", ["rows.txt", "rows.jsonl", "rows.jsonl.gz", "rows.tfrecord", "rows.example"]
)
def test_files_of_every_format_get_the_answers_of_direct_calls(name, tmp_path):
    options = write(tmp_path, name, TEXTS)
    found = scored(tmp_path / "out", *options)
    assert (found["rows"], found["scored"], found["failed"]) == (5, 5, 0)
    rows = read_back(tmp_path / "out")
    names = [f"{tmp_path / name}:{number}" for number in range(5)]
    assert sorted(rows) == names
    expected = answers(TEXTS)
    np.testing.assert_allclose([rows[n]["probability"] for n in names], expected, atol=1e-5)
    assert [rows[n]["label"] for n in names] == [int(p >= 0.5) for p in expected]


@needs_beam
def test_a_split_of_tfds_is_scored_with_its_labels_and_the_accuracy_is_that_of_direct_calls(
    tmp_path, data_dir
):
    reviews = list(datasets.load("toy_reviews", data_dir)["validation"].as_numpy_iterator())
    found = scored(
        tmp_path / "out", "--input", "tfds:toy_reviews/validation", "--label", "label",
        "--data-dir", data_dir,
    )  # fmt: skip
    assert found["scored"] == len(reviews)
    rows = read_back(tmp_path / "out")
    labels = [row["label"] for row in reviews]
    names = [f"toy_reviews/validation:{number}" for number in range(len(reviews))]
    assert [rows[name]["given"]["label"] for name in names] == labels
    expected = answers([row["text"] for row in reviews[:50]])
    np.testing.assert_allclose([rows[n]["probability"] for n in names[:50]], expected, atol=1e-5)
    right = np.mean([rows[name]["label"] == rows[name]["given"]["label"] for name in names])
    assert found["accuracy"] == pytest.approx(right, abs=1e-4)


@needs_beam
def test_rows_without_a_text_are_set_aside_with_the_reason_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [
        b'{"text": "Fine.", "id": 7}',
        b"{text}",
        b'["Fine."]',
        b'{"title": "Fine.", "id": 7}',
        b'{"text": 3, "id": 7}',
        b'{"text": " ", "id": 7}',
        b'{"text": "\\ud800", "id": 7}',
        b'{"text": "Fine."}',
        b'{"text": "\xff", "id": 7}',
        b"[" * 100_000,
        b"",
        b'{"text": "Fine.", "id": NaN}',
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    found = scored(tmp_path / "out", "--input", path, "--id", "id")
    assert (found["rows"], found["scored"], found["failed"]) == (12, 1, 11)
    [row] = read_back(tmp_path / "out").values()
    assert row["row"] == f"{path}:0" and row["given"] == {"id": 7}
    failed = read_back(tmp_path / "out", "failed")
    for number, reason in enumerate(
        ["no JSON: ", "no JSON object", "no text in the field 'text'", "no text in the field",
         "the text is empty", "surrogates not allowed", "no field 'id'", "no JSON: ",
         "no JSON: ", "no JSON: ", "a value is not a number"], 1
    ):  # fmt: skip
        assert reason in failed[f"{path}:{number}"]["reason"], number


@needs_beam
@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("left", [5, 12 + len(TEXTS[-1]) // 2])  # of a header, of a text
def test_a_damaged_file_is_read_as_far_as_it_goes_and_other_files_in_full(left, zipped, tmp_path):
    write(tmp_path, "a.tfrecord", TEXTS)
    write(tmp_path, "b.tfrecord", TEXTS)
    cut = (tmp_path / "a.tfrecord").read_bytes()[: left - len(TEXTS[-1]) - 16]
    (tmp_path / "a.tfrecord").unlink()
    damaged = tmp_path / f"a.tfrecord{zipped}"
    damaged.write_bytes(gzip.compress(cut) if zipped else cut)
    options = ["--input", damaged, tmp_path / "b.tfrecord", "--format", "tfrecord"]
    found = scored(tmp_path / "out", *options)
    assert (found["scored"], found["failed"]) == (9, 1)
    [failed] = read_back(tmp_path / "out", "failed").values()
    assert failed["row"] == f"{damaged}:4"
    assert "damaged from here on" in failed["reason"]


@needs_beam
def test_a_zipped_file_that_was_cut_is_read_as_far_as_it_goes(tmp_path):
    lines = [f"Film {number} is good. {hash(number * 0.37)}" for number in range(500)]
    whole = gzip.compress("\n".join(lines).encode())
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    found = scored(tmp_path / "out", "--input", tmp_path / "a.txt.gz", "--format", "text")
    assert 0 < found["scored"] < 500 and found["failed"] == 1
    [failed] = read_back(tmp_path / "out", "failed").values()
    assert "damaged from here on" in failed["reason"]


@needs_beam
def test_a_byte_order_mark_is_no_part_of_the_first_text(tmp_path):
    (tmp_path / "a.txt").write_text("Good film\nGood film\n", encoding="utf-8-sig")
    scored(tmp_path / "out", "--input", tmp_path / "a.txt")
    first, second = read_back(tmp_path / "out").values()
    assert first["probability"] == pytest.approx(second["probability"], abs=1e-6)


@needs_beam
def test_a_folder_that_another_run_writes_is_refused(tmp_path, capsys, monkeypatch, score):
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    options = ["--model", MODEL, *write(tmp_path, "rows.txt", TEXTS), "--output", tmp_path]
    assert "in use by another" in refused(score, capsys, monkeypatch, *options)
    os.close(other)


@needs_beam
def test_records_that_are_no_examples_are_set_aside(tmp_path):
    path = tmp_path / "rows.example"
    with tf.io.TFRecordWriter(str(path)) as file:
        for record in (b"\xff", example(other=b"a"), example(text=3), example(text=b"Fine.")):
            file.write(record)
    found = scored(tmp_path / "out", "--input", path, "--format", "examples")
    assert (found["scored"], found["failed"]) == (1, 3)
    failed = read_back(tmp_path / "out", "failed")
    assert failed[f"{path}:0"]["reason"] == "no tf.train.Example"


class Number(tf.Module):
    """Reads numbers, and refuses a batch with a text that is none."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])
    def __call__(self, text):
        error = tf.where(text == "7", "never 7", "")
        return {"probability": tf.strings.to_number(text), "error": error}


@pytest.fixture(scope="module")
def number_model(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("number") / "1")
    module = Number()
    tf.saved_model.save(module, folder, signatures=module.__call__)
    return folder


@needs_beam
def test_rows_that_the_model_refuses_are_found_in_their_batch_and_set_aside(tmp_path, number_model):
    texts = [str(number) for number in range(20)]
    texts[3], texts[11] = "three", "nan"
    options = write(tmp_path, "rows.txt", texts)
    found = scored(tmp_path / "out", *options, model=number_model)
    assert (found["scored"], found["failed"]) == (17, 3)
    reasons = {row["row"].split(":")[1]: row["reason"] for row in read_back(
        tmp_path / "out", "failed").values()}  # fmt: skip
    assert sorted(reasons) == ["11", "3", "7"]
    assert "refused by the model: " in reasons["3"] and "three" in reasons["3"]
    assert reasons["7"] == "never 7" and reasons["11"] == "a value is not a number"
    rows = read_back(tmp_path / "out")
    assert {int(n.split(":")[1]): row["probability"] for n, row in rows.items()} == {
        n: n for n in range(20) if n not in (3, 7, 11)
    }


def lengths(rows):
    """Returns texts of very different lengths in no order."""
    rng = np.random.default_rng(0)
    return ["good bad film " * n for n in rng.integers(1, 60, rows)]


@needs_beam
def test_two_workers_lose_and_double_nothing_though_every_bundle_is_run_twice(tmp_path):
    texts = lengths(600)
    for part in range(3):
        write(tmp_path, f"{part}.txt", texts[200 * part : 200 * part + 200])
    options = ["--model", MODEL, "--input", tmp_path / "*.txt", "--batch-size", 16]
    options += ["--direct_runner_bundle_repeat", 1, *TWO_WORKERS, "--output"]
    found = result(run("score.py", *options, "out", cwd=tmp_path))
    assert (found["rows"], found["scored"], found["failed"]) == (600, 600, 0)
    assert (found["lost"], found["doubled"]) == (0, 0)
    rows = read_back(tmp_path / "out")
    assert len(rows) == 600
    some = [f"{tmp_path}/{part}.txt:{number}" for part in range(3) for number in (0, 57, 199)]
    expected = answers([texts[200 * part + number] for part in range(3) for number in (0, 57, 199)])
    np.testing.assert_allclose([rows[n]["probability"] for n in some], expected, atol=1e-5)


@needs_beam
def test_batches_by_length_hold_less_padding_and_give_the_same_answers(tmp_path):
    options = [*write(tmp_path, "rows.txt", lengths(300)), "--batch-size", 16, "--boundaries"]
    plain = scored(tmp_path / "plain", *options)
    by_length = scored(tmp_path / "by_length", *options, 30, 60, 90, 120, 150)
    # Lengths spread evenly below a longest of 177 words: half of the slots are empty.
    assert 0.35 < plain["padding"] < 0.55 and by_length["padding"] < 0.2
    before, after = read_back(tmp_path / "plain"), read_back(tmp_path / "by_length")
    assert before.keys() == after.keys()
    for name, row in before.items():
        assert row["probability"] == pytest.approx(after[name]["probability"], abs=1e-5)


@pytest.fixture
def score():
    return importlib.import_module("score")


@needs_beam
def test_a_bundle_that_fails_once_is_run_again_and_no_row_is_lost_or_doubled(
    tmp_path, monkeypatch, score
):
    """On Beam's older local runner, which tries a bundle four times, as clusters do."""
    monkeypatch.setitem(score.RUNNERS, "DirectRunner", "BundleBasedDirectRunner")
    asked = score.SavedModelHandler.run_inference
    calls = []

    def fail_once(self, batch, model, inference_args=None):
        calls.append(len(batch))
        if len(calls) == 3:
            raise RuntimeError("the machine went away")
        return asked(self, batch, model, inference_args)

    monkeypatch.setattr(score.SavedModelHandler, "run_inference", fail_once)
    options = write(tmp_path, "rows.txt", lengths(100))
    found = scored(tmp_path / "out", *options, "--batch-size", 8)
    assert sum(calls) > 100
    assert (found["rows"], found["scored"], found["lost"], found["doubled"]) == (100, 100, 0, 0)
    assert len(read_back(tmp_path / "out")) == 100


@needs_beam
@pytest.mark.parametrize("wrong, count", [("lost", 1), ("doubled", 2)])
def test_rows_that_are_lost_or_doubled_are_an_error(
    wrong, count, tmp_path, monkeypatch, capsys, score
):
    asked = score.SavedModelHandler.run_inference

    def careless(self, batch, model, inference_args=None):
        results = asked(self, batch, model, inference_args)
        return results[:-1] if wrong == "lost" else results + results[-2:]

    monkeypatch.setattr(score.SavedModelHandler, "run_inference", careless)
    arguments = [*write(tmp_path, "rows.txt", TEXTS), "--boundaries"]
    arguments = ["--model", MODEL, "--output", tmp_path / "out", *arguments]
    monkeypatch.setattr("sys.argv", ["score.py", *map(str, arguments)])
    with pytest.raises(SystemExit, match="lost or doubled"):
        score.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])[wrong] == count


KILLED = """
import os, pathlib, signal, score

class Killed(score.SavedModelHandler):
    def run_inference(self, batch, model, inference_args=None):
        if not os.path.exists("killed"):
            pathlib.Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run_inference(batch, model, inference_args)

score.SavedModelHandler = Killed
score.main()
"""


@needs_beam
def test_a_killed_worker_ends_the_run_without_scores_and_the_next_run_has_all(tmp_path):
    options = [*write(tmp_path, "rows.txt", lengths(200)), *TWO_WORKERS, "--batch-size", 16]
    command = [sys.executable, "-c", KILLED, "--model", MODEL, "--output", "out", *options]
    paths = [str(EXAMPLES), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def start():
        return subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    first = start()
    assert (tmp_path / "killed").exists() and first.returncode != 0
    assert not list((tmp_path / "out").glob("*.jsonl"))
    found = result(start())
    assert (found["rows"], found["scored"]) == (200, 200)
    assert len(read_back(tmp_path / "out")) == 200


def refused(score, capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["score.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        score.main()
    return f"{capsys.readouterr().err}{ended.value.code}"


@needs_beam
@pytest.mark.parametrize("given, said", [
    (["--model", "nowhere"], "nowhere holds no exported model"),
    (["--model", "damaged"], "damaged, which does not load"),
    (["--signature", "token"], r"Received: token. .* has ['gates', 'serving_default', 'tokens']"),
    (["--signature", "tokens", "--label", "label"], "the output `label`. Received: tokens"),
    (["--input", "*.csv", "--format", "text"], "Received: *.csv, which fits none"),
    (["--input", "rows.csv"], "--format must be given"),
    (["--input", "."], "--format must be given"),
    (["--input", "damaged", "--format", "text"], "files that can be read. Received: damaged"),
    (["--input", "tfds:toy_reviews/tests"], "Received: 'tests' of ['test', 'train', 'validation']"),
    (["--input", "tfds:toy_reviews/test", "--field", "x"], "Received: 'x' of ['text', "),
    (["--input", "tfds:no_such_set/test"], "Received: tfds:no_such_set/test."),
    (["--input", "tfds:no_such_set/test"], "no_such_set not found.\n"),  # without all their names
    (["--input", "tfds:toy_reviews/test", "rows.txt"], "stands alone"),
    (["--output", "rows.txt"], "--output must be a folder. Received: rows.txt"),
    (["--output", "full"], "without scores. Received: full"),
    (["--boundaries", "64", "32"], "must ascend. Received: [64, 32]"),
    (["--batch-size", "0"], "must be at least 1. Received: 0"),
    (["--runner", "SlowRunner"], "invalid choice: 'SlowRunner'"),
    (["--direct_num_wokers", "2"], "has the option --direct_num_wokers"),
])  # fmt: skip
def test_bad_arguments_are_told_before_work_starts(
    given, said, tmp_path, data_dir, capsys, monkeypatch, score
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "rows.txt", TEXTS)
    for folder, name in (("full", "scores-00000-of-00001.jsonl"), ("damaged", "saved_model.pb")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("no scores, no model")
    monkeypatch.setattr(score.beam, "Pipeline", None)
    usual = ["--model", MODEL, "--input", "rows.txt", "--output", "out", "--data-dir", data_dir]
    message = refused(score, capsys, monkeypatch, *usual, *given)
    assert said.replace(".* ", f"{MODEL} ") in message


@needs_beam
def test_outputs_that_would_hide_a_row_s_name_are_told(tmp_path, capsys, monkeypatch, score):
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])
    def named(text):
        return {"row": text, "label": tf.strings.length(text)}

    tf.saved_model.save(tf.Module(), tmp_path / "1", signatures=named)
    options = [*write(tmp_path, "rows.txt", TEXTS), "--output", tmp_path / "out"]
    message = refused(score, capsys, monkeypatch, "--model", tmp_path / "1", *options)
    assert "must have no output `row`" in message


@needs_beam
@pytest.mark.parametrize("runner", ["FlinkRunner", "SparkRunner", "DataflowRunner"])
def test_a_runner_that_is_not_installed_is_told(runner, tmp_path, capsys, monkeypatch, score):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(score.dataflow_runner, "dataflow_api", None)
    options = [*write(tmp_path, "rows.txt", TEXTS), "--output", tmp_path / "out"]
    message = refused(
        score, capsys, monkeypatch, "--model", MODEL, *options, "--runner", runner
    )  # fmt: skip
    assert f"--runner {runner} needs " in message
    assert "apache-beam[gcp]" in message if runner == "DataflowRunner" else "java" in message


@pytest.mark.slow
def test_without_beam_the_way_to_it_is_told():
    code = "import sys; sys.modules['apache_beam'] = None; sys.argv = ['score.py']; import score"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLES, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "make beam" in process.stderr and "keras_gated[beam]" in process.stderr


@needs_beam
@pytest.mark.parametrize("given, right", [(1, 1), ("1", 1), ("0", 0), (0, 0)])
def test_a_label_that_is_written_as_text_is_compared_as_its_number_is(given, right, score):
    row = {"given": {"label": given}, "label": 1, "probability": 0.9}
    counts = score.compared(("a.jsonl:0", {"read": [1], "written": [row]}), "label")
    assert ("right", right) in counts
