"""The measurements of `benchmark.py --answers`: all ways in which a model is used for inference.

Measured are `predict_on_batch`, rows of unequal lengths under a mask, exported models with masks, a
custom loop under a tape that does not say `training=True`, and wide batches of small layers. Beside
them stand alternatives on a CPU: torch.nn, padded and packed, and onnxruntime on our ONNX file.
"""

import functools
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from benchmark import SHAPES, WORKERS, compare, in_turn, libraries, spread, tensorflow_calls

MASKED = {"8": (8, 60, 32, 32), "32": (32, 80, 64, 64), "24": (24, 120, 48, 96)}
WIDE = (2048, 200, 16, 32)
FAMILIES = ("LSTM", "GRU")


def random_mask(shape):
    import numpy as np

    lengths = np.random.default_rng(0).integers(1, shape[1] + 1, shape[0])
    return np.arange(shape[1]) < lengths[:, None]


def predict_call(module, family, shape, mask=None):
    """Returns a call of `predict_on_batch` of one layer."""
    import keras
    import numpy as np

    batch, steps, features, units = shape
    inputs = [keras.Input((None, features))]
    inputs += [] if mask is None else [keras.Input((None,), dtype="bool")]
    layer = getattr(module, family)(units, return_sequences=True)
    outputs = layer(inputs[0], mask=inputs[1] if mask is not None else None)
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(1).normal(size=(batch, steps, features)).astype("float32")
    given = [x] if mask is None else [x, mask]
    return lambda: model.predict_on_batch(given)


def tape_call(module, family, shape):
    """Returns a call of a custom training step that does not say `training=True`."""
    import tensorflow as tf

    layer = getattr(module, family)(shape[3])
    layer.build(shape[:3])
    x = tf.random.normal(shape[:3])

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x))
        return tape.gradient(loss, [v.value for v in layer.trainable_variables])

    return lambda: step(x)


def exported_calls(module, family, folder):
    """Exports a masked bidirectional classifier. Returns calls of it by the number of rows."""
    import keras
    import numpy as np
    import tensorflow as tf

    ids = keras.Input((None,), dtype="int32", name="ids")
    x = keras.layers.Embedding(1000, 64, mask_zero=True)(ids)
    x = keras.layers.Bidirectional(getattr(module, family)(64))(x)
    keras.Model(ids, keras.layers.Dense(1)(x)).export(folder, verbose=False)
    model = tf.saved_model.load(folder)
    rng, calls = np.random.default_rng(0), {}
    for batch in (1, 16, 64):
        tokens = rng.integers(1, 1000, (batch, 200))
        tokens[np.arange(200) >= rng.integers(50, 201, batch)[:, None]] = 0
        tokens = tf.constant(tokens, tf.int32)
        calls[batch] = functools.partial(_ask, model, tokens)
    return calls


def _ask(model, tokens):
    return model.signatures["serving_default"](ids=tokens)


def onnx_call(family, shape, folder):
    """Returns a call of onnxruntime on the ONNX file of our layer."""
    import keras
    import numpy as np
    import onnxruntime

    import keras_gated

    x = keras.Input((None, shape[2]), name="x")
    layer = getattr(keras_gated, family)(shape[3], return_sequences=True)
    path = keras_gated.to_onnx(keras.Model(x, layer(x)), f"{folder}/{family}.onnx", check=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = np.random.default_rng(1).normal(size=shape[:3]).astype("float32")
    return lambda: session.run(None, {"x": given})


def beside(rows, case, calls_or_times, seconds=None):
    """Adds and prints other libraries' times beside ours."""
    ours = next(r["ms"] for r in rows if r["case"] == case and r["library"] == "ours")
    for name, value in calls_or_times.items():
        times = in_turn({name: value}, seconds)[name] if callable(value) else value
        middle, quartiles = spread(times)
        rows.append({"case": case, "library": name, "ms": middle, "spread": quartiles})
        print(f"{case:28}{name} {middle:8.2f} ms  {name}/ours {middle / ours:5.2f}", flush=True)


def measure(seconds):
    """Returns the rows of all cases."""
    import tensorflow as tf

    rows, modules, torch_cases = [], libraries(), {}
    for family in FAMILIES:
        for name in ("S", "C", "s", "one"):
            case, shape = f"{family} {name} predict", SHAPES[name]
            calls = {k: predict_call(m, family, shape) for k, m in modules.items()}
            compare(rows, case, calls, seconds)
            torch_cases[case] = (family, "forward", shape, seconds)
        for name, shape in MASKED.items():
            mask = random_mask(shape)
            calls = {k: predict_call(m, family, shape, mask) for k, m in modules.items()}
            compare(rows, f"{family} masked {name} predict", calls, seconds)
            given = tf.random.normal(shape[:3]), tf.constant(mask)
            functions = {k: tensorflow_calls(m, family, shape, True) for k, m in modules.items()}
            calls = {k: functools.partial(f["forward"], *given) for k, f in functions.items()}
            case = f"{family} masked {name} graph"
            compare(rows, case, calls, seconds)
            torch_cases[case] = (family, "packed", shape, seconds)
        calls = {k: tape_call(m, family, SHAPES["s"]) for k, m in modules.items()}
        compare(rows, f"{family} s tape", calls, seconds)
        x = tf.random.normal(WIDE[:3])
        functions = {k: tensorflow_calls(m, family, WIDE) for k, m in modules.items()}
        calls = {k: functools.partial(f["train"], x) for k, f in functions.items()}
        compare(rows, f"{family} wide train", calls, seconds)
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            of = {k: exported_calls(m, family, f"{folder}/{family}{k}") for k, m in modules.items()}
            for batch in (1, 16, 64):
                calls = {k: by_batch[batch] for k, by_batch in of.items()}
                compare(rows, f"{family} masked export {batch}", calls, seconds)
            if importlib.util.find_spec("onnxruntime"):
                for name in ("S", "one"):
                    call = onnx_call(family, SHAPES[name], folder)
                    beside(rows, f"{family} {name} predict", {"onnxruntime": call}, seconds)
    command = [sys.executable, WORKERS, "torch", json.dumps(torch_cases)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print("torch.nn is not measured:", done.stderr.strip().splitlines()[-1])
    else:
        for case, times in json.loads(done.stdout).items():
            beside(rows, case, {"torch": times})
    summary(rows)
    return rows


def summary(rows):
    ms = {(r["case"], r["library"]): r["ms"] for r in rows}
    for title, words, other in (
        ("predict_on_batch, LSTM and GRU over S, C, s, one", ("predict", "!masked"), "keras"),
        ("predict_on_batch, LSTM and GRU over S, C, s, one", ("predict", "!masked"), "torch"),
        ("predict_on_batch, random lengths", ("masked", "predict"), "keras"),
        ("a function of one's own, random lengths", ("masked", "graph"), "keras"),
        ("a function of one's own, random lengths", ("masked", "graph"), "torch"),
        ("masked export, batch 1", ("export 1", "!16"), "keras"),
        ("masked export, batch 16", ("export 16",), "keras"),
        ("masked export, batch 64", ("export 64",), "keras"),
        ("a tape without `training`", ("tape",), "keras"),
        ("wide batches, train", ("wide",), "keras"),
    ):
        ratios = [
            value / ms[case, "ours"]
            for (case, library), value in ms.items()
            if library == other
            and all(w[1:] not in case if w[0] == "!" else w in case for w in words)
        ]
        if ratios:
            mean = statistics.geometric_mean(ratios)
            print(f"{title}: {other}/ours {mean:.2f} (geometric mean), at least {min(ratios):.2f}")


if __name__ == "__main__":
    sys.exit(f"python {pathlib.Path(__file__).with_name('benchmark.py')} --answers")
