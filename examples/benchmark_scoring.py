"""Compare `score.py` with `model.predict` and a loop: rows a second, share of padding, accuracy.

    .venv-beam/bin/python examples/benchmark_scoring.py --workers 2
    .venv-beam/bin/python examples/benchmark_scoring.py --rows 2000

`model.predict` runs the Keras model in this process, and the loop calls `serving_default`: with
batches of a fixed size, in the order of the rows. Their time begins when the model is loaded and
has answered a batch. The time of `score.py` includes its start, that of the workers, and the
reading. `seconds_in_model` is without these, and summed over the workers. A line of JSON is printed
for each way.
"""

import json
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

import quiet_tensorflow  # noqa: F401
import keras
import tensorflow as tf
from argument_types import command_line, positive
from score import SavedModelHandler
from training import ids_of

from keras_gated import datasets
from keras_gated.recipes import text


def result(right, seconds, words, slots):
    """Returns the line of one way: `right` says of every row whether its label was found."""
    return {
        "scored": len(right),
        "accuracy": sum(right) / len(right),
        "seconds": round(seconds, 1),
        "rows_per_second": round(len(right) / seconds, 1),
        "padding": round(1 - words / slots, 4),
    }


def predict(model, rows, batch_size):
    extras = pathlib.Path(model, "assets.extra")
    ids = ids_of(json.loads((extras / "reader.json").read_text()))
    texts = tf.data.Dataset.from_tensor_slices([row["text"] for row in rows]).batch(batch_size)
    batches = texts.map(lambda t: text.dense(ids(t))).prefetch(2)
    loaded = keras.models.load_model(extras / "model.keras")
    loaded.predict(batches.take(1), verbose=0)
    start = time.perf_counter()
    found = loaded.predict(batches, verbose=0)[:, 0] > 0.5
    seconds = time.perf_counter() - start
    lengths = [ids(t).row_lengths().numpy() for t in texts]
    slots = sum(max(of_batch) * len(of_batch) for of_batch in lengths)
    right = [answer == row["label"] for answer, row in zip(found, rows, strict=True)]
    return result(right, seconds, sum(map(sum, lengths)), slots)


def loop(model, rows, batch_size):
    handler = SavedModelHandler(model, "serving_default", batch_size, [], 1000)
    loaded = handler.load_model()
    batches = [
        [(n, row["text"], {}) for n, row in enumerate(rows[start : start + batch_size], start)]
        for start in range(0, len(rows), batch_size)
    ]
    handler.run_inference(batches[0], loaded)
    start = time.perf_counter()
    results = [result for batch in batches for result in handler.run_inference(batch, loaded)]
    seconds = time.perf_counter() - start
    lines = [json.loads(line) for kind, line in results if kind == "scored"]
    counts = [counts for kind, counts in results if kind == "batch"]
    words, slots = (sum(c[name] for c in counts) for name in ("words", "slots"))
    right = [line["label"] == rows[line["row"]]["label"] for line in lines]
    return result(right, seconds, words, slots)


def main():
    p = command_line(__doc__)
    p.add_argument("--model", default="saved_models/sentiment/1")
    p.add_argument("--rows", type=positive, default=25_000, help="of the test split's first")
    p.add_argument("--workers", type=positive, default=1)
    p.add_argument("--batch-size", type=positive, default=64)
    p.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    args = p.parse_args()
    packages = ("apache-beam", "tensorflow", "keras")
    print(platform.python_version(), *(f"{name} {version(name)}" for name in packages), flush=True)
    reviews = datasets.load("imdb_reviews", args.data_dir, "toy_reviews")["test"].take(args.rows)
    rows = [{**row, "label": int(row["label"])} for row in reviews.as_numpy_iterator()]
    for way in (predict, loop):
        found = way(args.model, rows, args.batch_size)
        print(json.dumps({"way": way.__name__, **found}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "rows.jsonl")
        with path.open("w") as file:
            for row in rows:
                file.write(json.dumps({"text": row["text"].decode(), "label": row["label"]}) + "\n")
        for name, options in (("score.py, as they come", ["--boundaries"]), ("score.py", [])):
            script = pathlib.Path(__file__).with_name("score.py")
            command = [sys.executable, script, "--model", args.model, "--input", path, *options]
            command += ["--batch-size", args.batch_size, "--label", "label"]
            command += ["--output", f"{folder}/{len(options)}"]
            if args.workers > 1:
                command += ["--direct_num_workers", args.workers]
                command += ["--direct_running_mode", "multi_processing"]
            done = subprocess.run(
                [*map(str, command)], check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            print(json.dumps({"way": name, **found}), flush=True)


if __name__ == "__main__":
    main()
