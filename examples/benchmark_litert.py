"""What 8-bit weights change for a sentiment model in LiteRT: size, speed and accuracy.

pip install 'keras_gated[examples,litert]'
python examples/benchmark_litert.py saved_models/sentiment/1

The exported model is written for LiteRT with 32-bit and with 8-bit weights. Both classify the
reviews of the test split, one at a time, on one thread. Printed are the megabytes, the
milliseconds a review, and the accuracy.
"""

import json
import sys
import tempfile
import time

import quiet_tensorflow  # noqa: F401
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from argument_types import command_line, positive
from look_inside import load
from training import ids_of

import keras_gated
from keras_gated import datasets
from keras_gated.recipes import text


def probabilities(path, rows):
    """Returns the probability of every row of ids, and the milliseconds of a call."""
    interpreter = Interpreter(model_path=path, num_threads=1)
    [given], [made] = interpreter.get_input_details(), interpreter.get_output_details()
    found, seconds, steps = [], 0.0, None
    for ids in rows:
        if len(ids) != steps:
            steps = len(ids)
            interpreter.resize_tensor_input(given["index"], (1, steps))
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], ids[None])
        start = time.perf_counter()
        interpreter.invoke()
        seconds += time.perf_counter() - start
        found.append(float(interpreter.get_tensor(made["index"]).ravel()[0]))
    return np.array(found), 1e3 * seconds / len(rows)


def main():
    p = command_line(__doc__)
    p.add_argument("directory", help="of an export of sentiment.py, or of its versions")
    p.add_argument("--dataset", choices=["imdb_reviews", "toy_reviews"], default="imdb_reviews")
    p.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    p.add_argument("--reviews", type=positive, default=25_000, help="of the test split, at most")
    args = p.parse_args()
    model, reader = load(args.directory)
    if reader["kind"] != "sentiment":
        sys.exit(f"{args.directory} must hold a sentiment model. Received: a character model")
    ids_of_texts = ids_of(reader)
    reviews = datasets.load(args.dataset, args.data_dir, offline="toy_reviews")["test"]
    rows, labels = [], []
    for batch in reviews.take(args.reviews).batch(1024):
        ids = ids_of_texts(batch["text"])
        rows += [np.array(row or [text.UNKNOWN]) for row in ids.to_list()]
        labels += list(batch["label"].numpy())
    # By length: LiteRT allocates memory anew only when the length changes.
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    rows, labels = [rows[n] for n in order], np.array(labels)[order]
    with tempfile.TemporaryDirectory() as folder:
        for bits, quantize in ((32, None), (8, "dynamic")):
            path = f"{folder}/{bits}.tflite"
            written = keras_gated.to_litert(model, path, quantize=quantize)
            found, milliseconds = probabilities(written.path, rows)
            accuracy = float(np.mean((found > 0.5) == labels))
            result = {"bits": bits, "megabytes": round(written.size / 1e6, 2)}
            result.update(milliseconds=round(milliseconds, 2), accuracy=round(accuracy, 4))
            print(json.dumps({**result, "reviews": len(rows)}), flush=True)


if __name__ == "__main__":
    main()
