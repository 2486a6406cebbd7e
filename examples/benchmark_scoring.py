"""Compare `score.py` with a loop: rows a second, share of padding, accuracy.

    .venv-beam/bin/python examples/benchmark_scoring.py --workers 2
    .venv-beam/bin/python examples/benchmark_scoring.py --rows 2000

The loop calls `serving_default` in this process, with batches of a fixed size, in the order of the
rows. Its time begins when the model is loaded and has answered a batch. The time of `score.py`
includes its start, that of the workers, and the reading. `seconds_in_model` is without these, and
summed over the workers. A line of JSON is printed for the loop, and one for `score.py`.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

import quiet_tensorflow  # noqa: F401
from score import SavedModelHandler
from training import positive

from keras_gated import datasets


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
    padding = 1 - sum(c["words"] for c in counts) / sum(c["slots"] for c in counts)
    return {
        "scored": len(lines),
        "accuracy": sum(line["label"] == rows[line["row"]]["label"] for line in lines) / len(lines),
        "seconds": round(seconds, 1),
        "rows_per_second": round(len(lines) / seconds, 1),
        "padding": round(padding, 4),
    }


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    print(json.dumps({"way": "loop", **loop(args.model, rows, args.batch_size)}), flush=True)
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
