"""Milliseconds of a call in onnxruntime and in LiteRT: our writer against tf2onnx, side by side.

pip install 'keras_gated[test]'
python examples/benchmark_onnx.py

`to_onnx` writes one file, and tf2onnx writes the other from the same model with `keras.layers`.
Calls of both alternate, and their answers are compared.
"""

import functools
import importlib.metadata
import pathlib
import statistics
import tempfile

import characters
import keras
import numpy as np
import onnxruntime
import sentiment
import tensorflow as tf
import tf2onnx
from argument_types import above_zero, command_line
from benchmark import in_turn

import keras_gated


def models(cell):
    """Yields names, models and ids: the two examples."""
    classifier, _ = sentiment.build_model(20_000, cell, 64, 1)
    writer, _ = characters.build_model(65, cell, 512, 1)
    rng = np.random.default_rng(0)
    for name, model, words, rows, steps in (
        ("sentiment, 1 text of 200 words", classifier, 20_000, 1, 200),
        ("sentiment, 16 texts of 200 words", classifier, 20_000, 16, 200),
        ("characters, 1 row of 200", writer, 65, 1, 200),
        ("characters, 32 rows of 100", writer, 65, 32, 100),
    ):
        yield f"{cell} {name}", model, rng.integers(2, words, (rows, steps))


def through_tf2onnx(model, path):
    theirs = keras_gated.to_keras(model)
    [spec] = [tf.TensorSpec([None, None], t.dtype, name=t.name) for t in theirs.inputs]
    function = tf.function(lambda ids: theirs(ids, training=False), input_signature=[spec])
    tf2onnx.convert.from_function(function, [spec], opset=17, output_path=str(path))


def main():
    p = command_line(__doc__)
    p.add_argument("--seconds", type=above_zero, default=3, help="of every case")
    p.add_argument("--cell", nargs="+", choices=["lstm", "gru"], default=["lstm", "gru"])
    args = p.parse_args()
    packages = ("onnxruntime", "tf2onnx", "onnx", "tensorflow", "keras")
    print(", ".join(f"{n} {importlib.metadata.version(n)}" for n in packages), flush=True)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for cell in args.cell:
            for name, model, ids in models(cell):
                paths = [pathlib.Path(folder, n) for n in ("ours.onnx", "tf2onnx.onnx")]
                keras_gated.to_onnx(model, paths[0], check=False)  # the answers are compared below
                through_tf2onnx(model, paths[1])
                sessions = [
                    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
                    for path in paths
                ]
                calls = {
                    path: functools.partial(s.run, None, {s.get_inputs()[0].name: ids})
                    for path, s in zip(paths, sessions, strict=True)
                }
                expected = keras.ops.convert_to_numpy(model(ids))
                for call in calls.values():
                    np.testing.assert_allclose(call()[0], expected, atol=1e-4)
                ours, theirs = map(statistics.median, in_turn(calls, args.seconds).values())
                litert = keras_gated.to_litert(
                    model, pathlib.Path(folder, "m.tflite"), batch_size=len(ids), steps=ids.shape[1]
                )
                ratios.append(theirs / ours)
                print(
                    f"{name:36} tf2onnx {theirs:7.2f} ms   ours {ours:7.2f} ms   "
                    f"tf2onnx/ours {ratios[-1]:5.2f}   LiteRT {litert.milliseconds:7.2f} ms, "
                    f"{litert.size / 1e6:.1f} MB",
                    flush=True,
                )
    print(f"tf2onnx/ours: {statistics.geometric_mean(ratios):.2f} (geometric mean)")


if __name__ == "__main__":
    main()
