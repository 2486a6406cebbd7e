"""An LSTM of `keras.layers` in LiteRT: Keras's own export, a loop, and one operation.

pip install 'keras_gated[examples,litert]'
python examples/benchmark_lstm_litert.py

Prints a line for each size and each way to write the same model: the kilobytes, the milliseconds of
a sequence, and the largest difference from Keras. The time is that of the fastest of 50 calls on
one thread. The calls of all ways alternate. They are timed with XNNPACK and without it, as on a
microcontroller.
"""

import json
import os
import pathlib
import tempfile
import time

import quiet_tensorflow  # noqa: F401
import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from argument_types import command_line

import keras_gated

SIZES = [(16, 50, 4), (32, 100, 16), (64, 100, 32), (128, 100, 64), (256, 100, 128)]
KINDS = {
    "with_xnnpack": OpResolverType.BUILTIN,
    "without": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


def lstm(units, steps, features):
    x = keras.Input((steps, features), batch_size=1, name="x")
    return keras.Model(x, keras.layers.Dense(2)(keras.layers.LSTM(units)(x)))


def written(model, folder, typical):
    """Yields a name, a path and the difference, for each way to write a model."""
    model.export(folder / "keras.tflite", format="litert", verbose=False)
    yield "model.export", folder / "keras.tflite", None
    for name, options in {
        "loop": {"fused": False},
        "one operation": {},
        "loop, weights of 8 bits": {"fused": False, "quantize": "dynamic"},
        "one operation, weights of 8 bits": {"quantize": "dynamic"},
        "written out, 8 bits": {"fused": False, "quantize": "int8", "representative": typical},
        "one operation, 8 bits": {"quantize": "int8", "representative": typical},
    }.items():
        path = folder / f"{name}.tflite"
        yield name, path, keras_gated.to_litert(model, path, **options).difference


def interpreter(path, kind):
    """Returns an interpreter after its first call, or None if it lacks an operation."""
    made = Interpreter(str(path), num_threads=1, experimental_op_resolver_type=kind)
    try:
        made.allocate_tensors()
        made.invoke()
    except (RuntimeError, ValueError):
        return None
    return made


def main():
    p = command_line(__doc__)
    p.parse_args()
    for units, steps, features in SIZES:
        rng = np.random.default_rng(0)
        typical = rng.normal(size=(40, 1, steps, features)).astype("float32")
        with tempfile.TemporaryDirectory() as folder:
            ways = list(written(lstm(units, steps, features), pathlib.Path(folder), typical))
            made = {(w, k): interpreter(path, KINDS[k]) for w, path, _ in ways for k in KINDS}
            seconds = {key: [] for key, one in made.items() if one}
            for key in 50 * list(seconds):
                start = time.perf_counter()
                made[key].invoke()
                seconds[key].append(time.perf_counter() - start)
            for way, path, difference in ways:
                result = {"size": [units, steps, features], "written": way}
                result["kilobytes"] = round(os.path.getsize(path) / 1e3, 1)
                for kind in KINDS:
                    if (way, kind) in seconds:
                        result[kind] = round(1e3 * min(seconds[way, kind]), 3)
                    else:
                        result[kind] = "does not run: needs TensorFlow's kernels"
                if difference is not None:
                    result["difference"] = float(f"{difference:.1e}")
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
