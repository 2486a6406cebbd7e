"""Compare four runtimes with the two shipped models: size, milliseconds, accuracy.

pip install 'keras_gated[examples,onnx,litert]' openvino
TFDS_DATA_DIR=... python examples/benchmark_runtimes.py

Each model is written for TensorFlow (a SavedModel, through the C library), onnxruntime, OpenVINO
and LiteRT, with 32 bits, and with 8 bits if the runtime has them. It runs on one thread, one text
at a time. A text has 200 words or characters. The character model is also timed for one step with
its states. The classifier reads texts in both directions, so it cannot run step by step.
"""

import importlib.metadata
import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # before TensorFlow is loaded
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import quiet_tensorflow  # noqa: F401
import c_session
import keras
import numpy as np
import onnxruntime
import openvino
from ai_edge_litert.interpreter import Interpreter
from argument_types import command_line, positive
from tensorflow.core.protobuf import meta_graph_pb2
from training import ids_of

import keras_gated
from keras_gated import datasets
from keras_gated.recipes import text
from keras_gated.serve.streaming import Stepper

HERE = pathlib.Path(__file__).parent.parent / "saved_models"
STEPS = 200  # of a text that is timed, and of a row that is scored
FIRST = 2  # the id of the first character that the network can write


# Each of these functions writes a file. It returns the path, and a function from a list of inputs
# to a list of outputs. Both lists hold those of the model and then the states.


def in_tensorflow(model, folder, states):
    path = pathlib.Path(keras_gated.export_model(model, folder / "tensorflow", states=bool(states)))
    session = c_session.Session(path, meta_graph_pb2.MetaGraphDef)
    [answer] = {*session.signatures["serving_default"].outputs} - {*states}
    names = ["ids", *states]

    def ask(given):
        found = session.run("serving_default", dict(zip(names, given, strict=True)))
        return [found[name] for name in (answer, *states)]

    return path, ask


def in_onnxruntime(model, folder, states, quantize=None):
    path = folder / f"{quantize}.onnx"
    keras_gated.to_onnx(model, path, states=bool(states), quantize=quantize)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return path, lambda given: session.run(None, dict(zip(names, given, strict=True)))


def in_openvino(model, folder, states):
    path = folder / "openvino.onnx"
    keras_gated.to_onnx(model, path, states=bool(states))
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()

    def ask(given):
        results = request.infer(dict(enumerate(given)))
        return [results[n].copy() for n in range(len(results))]

    return path, ask


def in_litert(model, folder, states, quantize=None):
    path = folder / f"{quantize}.tflite"
    keras_gated.to_litert(model, path, states=bool(states), quantize=quantize)
    interpreter = Interpreter(str(path), num_threads=1)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    shape = None

    def ask(given):
        nonlocal shape
        if given[0].shape != shape:
            shape = given[0].shape
            interpreter.resize_tensor_input(inputs[0]["index"], shape)
            interpreter.allocate_tensors()
        for detail, value in zip(inputs, given, strict=True):
            interpreter.set_tensor(detail["index"], value)
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in outputs]

    return path, ask


def in_8_bits_throughout(model, folder, typical):
    """Writes a LiteRT file of single steps in 8 bits. Returns the path, and `ask` for a row.

    Args:
        typical: Rows, from which the scales of the 8-bit numbers are computed.
    """
    path = folder / "int8.tflite"
    keras_gated.to_litert(model, path, states=True, quantize="int8", representative=typical)
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = outputs[0]["quantization"]

    def ask(given):
        states = [np.full(d["shape"], d["quantization"][1], d["dtype"]) for d in inputs[1:]]
        answers = []
        for step in np.split(given[0], given[0].shape[1], axis=1):
            for detail, value in zip(inputs, [step, *states], strict=True):
                interpreter.set_tensor(detail["index"], value.astype(detail["dtype"]))
            interpreter.invoke()
            answer, *states = [interpreter.get_tensor(detail["index"]) for detail in outputs]
            answers.append(scale * (answer.astype("float32") - zero))
        return [np.concatenate(answers, axis=1)]

    return path, ask


RUNTIMES = {
    ("TensorFlow", 32): in_tensorflow,
    ("onnxruntime", 32): in_onnxruntime,
    ("onnxruntime", 8): lambda *given: in_onnxruntime(*given, quantize="int8"),
    ("OpenVINO", 32): in_openvino,
    ("LiteRT", 32): in_litert,
    ("LiteRT", 8): lambda *given: in_litert(*given, quantize="dynamic"),
}


def reviews(reader, number, data_dir, dataset):
    """Returns the ids of reviews of the test split, the shortest first, and their labels."""
    ids_of_texts, rows, labels = ids_of(reader), [], []
    for batch in datasets.load(dataset, data_dir)["test"].take(number).batch(256):
        ids = ids_of_texts(batch["text"])
        rows += [np.array([row or [text.UNKNOWN]]) for row in ids.to_list()]
        labels += list(batch["label"].numpy())
    order = sorted(range(len(rows)), key=lambda n: rows[n].size)
    return [rows[n] for n in order], np.array(labels)[order]


def plays(reader, number, data_dir, dataset, split="test"):
    """Returns the ids of rows of a split, and the places of the next characters."""
    [play] = [
        b"".join(e["text"] for e in datasets.load(dataset, data_dir)[split].as_numpy_iterator())
    ]
    places = {character: n for n, character in enumerate(reader["vocabulary"])}
    ids = np.array([places[c] for c in play.decode() if c in places])[: number * STEPS + 1]
    ends = range(0, len(ids) - STEPS, STEPS)
    return [ids[None, n : n + STEPS] for n in ends], [
        ids[n + 1 : n + STEPS + 1] - FIRST for n in ends
    ]


def of_reviews(ask, rows, labels):
    p = np.clip(np.array([ask([row])[0].item() for row in rows]), 1e-7, 1 - 1e-7)
    nats = -np.mean(np.where(labels == 1, np.log(p), np.log(1 - p)))
    return {
        "accuracy": round(float(np.mean((p > 0.5) == labels)), 4),
        "nats": round(float(nats), 4),
    }


def of_plays(ask, rows, following):
    nats, right = [], []
    for row, after in zip(rows, following, strict=True):
        logits = ask([row])[0][0].astype("float64")
        largest = logits.max(-1, keepdims=True)
        logits -= largest + np.log(np.exp(logits - largest).sum(-1, keepdims=True))
        nats.append(-logits[range(len(after)), after].mean())
        right.append(np.mean(logits.argmax(-1) == after))
    return {"accuracy": round(float(np.mean(right)), 4), "nats": round(float(np.mean(nats)), 4)}


def milliseconds(ask, given, calls):
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        ask(given)
        seconds.append(time.perf_counter() - start)
    return round(1e3 * min(seconds), 3)  # the least: other work on the machine only adds time


def megabytes(path):
    files = [path] if path.is_file() else [path / "saved_model.pb", *(path / "variables").iterdir()]
    return round(sum(file.stat().st_size for file in files) / 1e6, 2)


def main():
    p = command_line(__doc__)
    p.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    p.add_argument("--reviews", type=positive, default=1000, help="of the test split, at most")
    p.add_argument("--rows", type=positive, default=100, help="of 200 characters, at most")
    p.add_argument("--calls", type=positive, default=50, help="that are timed")
    p.add_argument(
        "--microcontroller",
        action="store_true",
        help="write the character model with 8 bits throughout, too",
    )
    p.add_argument("--toy", action="store_true", help="small data sets that need no network")
    args = p.parse_args()
    packages = ("tensorflow", "onnxruntime", "openvino", "ai-edge-litert")
    print(", ".join(f"{n} {importlib.metadata.version(n)}" for n in packages), flush=True)
    for name, read, number, judge, dataset in (
        ("sentiment", reviews, args.reviews, of_reviews, ("imdb_reviews", "toy_reviews")),
        ("shakespeare", plays, args.rows, of_plays, ("tiny_shakespeare", "toy_plays")),
    ):
        assets = HERE / name / "1" / "assets.extra"
        model = keras.models.load_model(assets / "model.keras")
        reader = json.loads((assets / "reader.json").read_text())
        rows, expected = read(reader, number, args.data_dir, dataset[args.toy])
        one = np.random.default_rng(0).integers(2, len(reader["vocabulary"]), (1, STEPS))
        states = {} if name == "sentiment" else Stepper(model).states
        zeros = [np.zeros((1, spec.shape[1]), "float32") for spec in states.values()]
        for (runtime, bits), write in RUNTIMES.items():
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                path, ask = write(model, folder, {})
                found = {"model": name, "runtime": runtime, "bits": bits}
                found["megabytes"] = megabytes(path)
                found["text_ms"] = milliseconds(ask, [one], args.calls)
                found.update(judge(ask, rows, expected))
            if states:
                with tempfile.TemporaryDirectory() as folder:
                    path, ask = write(model, pathlib.Path(folder), states)
                    found["step_ms"] = milliseconds(ask, [one[:, :1], *zeros], 20 * args.calls)
            print(json.dumps(found), flush=True)
        if states and args.microcontroller:
            typical, _ = read(reader, 50, args.data_dir, dataset[args.toy], split="train")
            with tempfile.TemporaryDirectory() as folder:
                path, ask = in_8_bits_throughout(model, pathlib.Path(folder), typical)
                found = {"model": name, "runtime": "LiteRT", "bits": "8 throughout"}
                found["megabytes"] = megabytes(path)
                found["step_ms"] = milliseconds(ask, [one[:, :1]], 20 * args.calls)
                print(json.dumps({**found, **judge(ask, rows, expected)}), flush=True)


if __name__ == "__main__":
    main()
