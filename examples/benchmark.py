"""Measure our layers against keras.layers and torch.nn, case beside case in one run.

    python examples/benchmark.py --quick              # about one minute
    TFDS_DATA_DIR=... python examples/benchmark.py    # all cases, with batches of imdb_reviews
    python examples/benchmark.py --answers            # all ways of inference, about five minutes
    python examples/benchmark.py --serving            # exported models, through the C library
    python examples/benchmark.py --gpu                # on a GPU, against cuDNN elsewhere

Writes a table (printed), OUTPUT/benchmark.csv and OUTPUT/benchmark.png. Every library returns the
outputs of all steps. "train" is one forward and backward pass, with gradients by inputs and
weights. "fit" is one step of `model.fit`. Keras's calls and ours alternate. PyTorch is measured in
a separate process (`benchmark_workers.py`). `benchmark_gates.py` measures `trace_gates`.
"""

import contextlib
import csv
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from argument_types import above_zero, command_line
from argument_types import folder as output_folder
from pictures import picture

SHAPES = {  # batch, time, features, units
    "S": (64, 200, 128, 128),
    "C": (64, 100, 256, 512),
    "s": (32, 80, 64, 64),
    "one": (1, 200, 128, 128),
    "long": (8, 2000, 64, 128),
}
WORKERS = str(pathlib.Path(__file__).with_name("benchmark_workers.py"))
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
LENGTHS = (50, 100, 200, 500, 1000, 2000, 5000)


def in_turn(calls, seconds):
    """Calls each of `calls` in turn for some seconds; returns name to milliseconds a call."""
    for call in calls.values():
        call(), call()
    times, end = {name: [] for name in calls}, time.perf_counter() + seconds
    while len(next(iter(times.values()))) < 5 or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def spread(times):
    """Returns the median and the distance between the quartiles."""
    low, middle, high = statistics.quantiles(times, n=4)
    return middle, high - low


# TensorFlow: keras.layers and keras_gated


def libraries():
    import keras

    import keras_gated

    return {"keras": keras.layers, "ours": keras_gated}


def tensorflow_calls(module, family, shape, masked=False):
    """Returns the measured calls of one layer: `forward` and `train`, functions of tensors."""
    import keras

    keras.utils.set_random_seed(0)
    layer = getattr(module, family)(shape[3], return_sequences=True)
    layer.build(shape[:3])
    return calls_of(layer, shape, masked)


def calls_of(layer, shape, masked=False):
    """As `tensorflow_calls`, for a given layer."""
    import tensorflow as tf

    batch, steps, features, _ = shape
    size = (None, None) if masked else (batch, steps)
    specs = [tf.TensorSpec((*size, features)), *[tf.TensorSpec(size, tf.bool)] * masked]

    def forward(x, mask=None):
        return layer(x, mask=mask, training=False)

    def train(x, mask=None):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, mask=mask, training=True))
        return tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])

    functions = {"forward": forward, "train": train}
    return {k: tf.function(f, input_signature=specs, autograph=False) for k, f in functions.items()}


def fit_call(module, family, shape):
    """Returns a call of one training step through `model.fit`."""
    import keras
    import numpy as np

    batch, steps, features, units = shape
    inputs = keras.Input((steps, features))
    model = keras.Model(inputs, getattr(module, family)(units, return_sequences=True)(inputs))
    model.compile("sgd", "mse")
    x, y = (np.ones((batch, steps, n), "float32") for n in (features, units))
    return lambda: model.train_on_batch(x, y)


def floor(family, shape):
    """Returns the milliseconds of the matrix products alone, by `forward` and `train`."""
    import tensorflow as tf

    batch, steps, features, units = shape
    width = GATES[family] * units
    x, d = tf.random.normal((batch * steps, features)), tf.random.normal((batch * steps, width))
    h, before = tf.random.normal((batch, units)), tf.random.normal((batch * steps, units))
    W, U = (tf.random.normal((n, width)) for n in (features, units))

    @tf.function
    def twenty_steps(h):
        for _ in range(20):  # each product needs the one before, as in the loop over time
            h = tf.matmul(h, U)[:, :units]
        return h

    @tf.function
    def twenty_steps_back(d):
        for _ in range(20):
            d = tf.tile(tf.matmul(d, U, transpose_b=True), [1, GATES[family]])
        return d

    products = {
        "steps": (lambda: twenty_steps(h), steps / 20),
        "xW": (lambda: tf.matmul(x, W), 1),
        "steps back": (lambda: twenty_steps_back(d[:batch]), steps / 20),
        "dU": (lambda: tf.matmul(before, d, transpose_a=True), 1),
        "dW": (lambda: tf.matmul(x, d, transpose_a=True), 1),
        "dx": (lambda: tf.matmul(d, W, transpose_b=True), 1),
    }
    times = in_turn({name: call for name, (call, _) in products.items()}, 0.5)
    ms = {name: spread(times[name])[0] * number for name, (_, number) in products.items()}
    return {"forward": ms["steps"] + ms["xW"], "train": sum(ms.values())}


def compare(rows, case, calls, seconds, **more):
    """Measures calls in turn, prints a line and adds a row for each library."""
    times = in_turn(calls, seconds)
    medians = {name: spread(t)[0] for name, t in times.items()}
    for name, t in times.items():
        middle, quartiles = spread(t)
        rows.append({"case": case, "library": name, "ms": middle, "spread": quartiles, **more})
    ratio = medians["keras"] / medians["ours"]
    print(f"{case:28}" + "".join(f"{n} {m:8.2f} ms  " for n, m in medians.items()), end="")
    print(
        f"keras/ours {ratio:5.2f}  " + "  ".join(f"{k} {v:.2f}" for k, v in more.items()),
        flush=True,
    )


def padded_reviews(data_dir, number=3):
    """Returns masks `(64, longest)` of the first batches of imdb_reviews, split at white space."""
    import numpy as np

    from keras_gated import datasets

    texts = datasets.load("imdb_reviews", data_dir)["train"].take(64 * number).batch(64)
    lengths = [np.array([len(t.split()) for t in batch["text"].numpy()]) for batch in texts]
    return [np.arange(n.max()) < n[:, None] for n in lengths]


def exported_call(module, family, batch, directory):
    """Exports a small classifier of 200 tokens; returns a call of its signature."""
    import keras
    import tensorflow as tf

    ids = keras.Input((None,), dtype="int32", name="ids")
    hidden = keras.layers.Embedding(5000, 64)(ids)
    answer = keras.layers.Dense(1, "sigmoid")(getattr(module, family)(128)(hidden))
    keras.Model(ids, answer).export(directory, verbose=False)
    model = tf.saved_model.load(directory)
    ask = model.signatures["serving_default"]
    tokens = tf.ones((batch, 200), tf.int32)
    return lambda model=model: ask(ids=tokens)


def peak_memory(library, family, shape):
    """Returns the MiB that training adds to a process that does nothing else."""
    command = [sys.executable, WORKERS, "memory", library, family, shape]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def add_torch(rows, cases):
    """Measures the same cases with PyTorch, if it is installed, and prints the ratios."""
    command = [sys.executable, WORKERS, "torch", json.dumps(cases)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        print("torch.nn is not measured:", process.stderr.strip().splitlines()[-1])
        return
    for case, times in json.loads(process.stdout).items():
        ours = next(r["ms"] for r in rows if r["case"] == case and r["library"] == "ours")
        middle, quartiles = spread(times)
        rows.append({"case": case, "library": "torch", "ms": middle, "spread": quartiles})
        print(f"{case:28}torch {middle:8.2f} ms  torch/ours {middle / ours:5.2f}", flush=True)


def measure_on_a_gpu(seconds):
    """Returns rows at S, C and long, with and without random lengths, forward and train."""
    import tensorflow as tf
    from benchmark_answers import random_mask

    rows, torch_cases, modules = [], {}, libraries()
    for family in ("LSTM", "GRU"):
        for name in ("S", "C", "long"):
            for masked in (False, True):
                shape = SHAPES[name]
                given = [tf.random.normal(shape[:3])]
                given += [tf.constant(random_mask(shape))] if masked else []
                functions = {
                    k: tensorflow_calls(m, family, shape, masked) for k, m in modules.items()
                }
                for what in ("forward", "train"):
                    case = f"{family} {name}{' masked' if masked else ''} {what}"
                    calls = {
                        k: functools.partial(_waited_for, f[what], given)
                        for k, f in functions.items()
                    }
                    compare(rows, case, calls, seconds)
                    if not masked:
                        torch_cases[case] = (family, what, shape, seconds)
    add_torch(rows, torch_cases)
    return rows


def _waited_for(function, given):
    """Calls a function, and waits until a GPU has computed what it returns."""
    import tensorflow as tf

    return [tf.convert_to_tensor(t).numpy() for t in tf.nest.flatten(function(*given))[:1]]


def processor():
    """Returns the name of the processor, and its widest vector instructions."""
    name, widest = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
        found = {key.strip(): value.strip() for key, value in found.items()}
        name, flags = found.get("model name", name), found.get("flags", "").split()
        widest = next((f" with {n}" for n in ("avx512f", "avx2", "avx") if n in flags), "")
    return name + widest


def summary(rows):
    """Prints the geometric means of the ratios that docs/guides/speed.md quotes."""
    ms = {(r["case"], r["library"]): r["ms"] for r in rows if "ms" in r}
    gated = [f"{f} {s}" for f in ("LSTM", "GRU") for s in ("S", "C", "s", "one")]
    simple = [f"SimpleRNN {s}" for s in ("S", "C", "s", "one")]
    for title, cases, other in (
        ("train, LSTM and GRU", [f"{c} train" for c in gated], "keras"),
        ("forward, LSTM and GRU", [f"{c} forward" for c in gated], "keras"),
        ("train, SimpleRNN", [f"{c} train" for c in simple], "keras"),
        ("train, LSTM and GRU", [f"{c} train" for c in gated], "torch"),
        ("imdb_reviews train", [c for c, _ in ms if "imdb" in c and "train" in c], "keras"),
        ("exported", [c for c, _ in ms if "exported" in c], "keras"),
    ):
        ratios = [ms[c, other] / ms[c, "ours"] for c in cases if (c, other) in ms]
        if ratios:
            mean, worst = statistics.geometric_mean(ratios), min(ratios)
            print(f"{title}: {other}/ours {mean:.2f} (geometric mean), at least {worst:.2f}")


def plot(rows, path):
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for library in ("keras", "torch", "ours"):
        points = [(r["time"], r["ms"]) for r in rows if "time" in r and r["library"] == library]
        if points:
            axes.loglog(*zip(*points, strict=True), "o-", label=library)
    axes.set(xlabel="steps", ylabel="ms, forward and backward", title="LSTM, batch 16, 64 units")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def main():
    p = command_line(__doc__)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--serving", action="store_true", help="the exported models, and nothing else")
    p.add_argument("--answers", action="store_true", help="inference, and nothing else")
    p.add_argument("--gpu", action="store_true", help="on a GPU, and nothing else")
    p.add_argument("--data-dir", help="with prepared imdb_reviews; default: $TFDS_DATA_DIR")
    p.add_argument("--output", type=output_folder, default="benchmark")
    p.add_argument("--seconds", type=above_zero, help="a case; default: 2, with --quick 0.5")
    args = p.parse_args()
    import keras
    import tensorflow as tf

    seconds = args.seconds or (0.5 if args.quick else 2.0)
    if args.gpu and not tf.config.list_physical_devices("GPU"):
        p.error("--gpu: TensorFlow sees no GPU; `pip install 'tensorflow[and-cuda]'` brings CUDA")
    print(f"{processor()}, {os.cpu_count()} cores; Python ", end="")
    print(f"{platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__}; ")
    print(f"two warm-up calls, then {seconds} s of calls in turn; medians\n")
    if args.serving:
        import benchmark_serving

        write(benchmark_serving.measure(seconds), args.output, "serving.csv")
        return
    if args.answers:
        import benchmark_answers

        write(benchmark_answers.measure(seconds), args.output, "answers.csv")
        return
    if args.gpu:
        write(measure_on_a_gpu(seconds), args.output, "gpu.csv")
        return
    masks = []
    if args.data_dir or os.environ.get("TFDS_DATA_DIR"):
        masks = padded_reviews(args.data_dir, 1 if args.quick else 3)
    rows, torch_cases, modules = [], {}, libraries()
    for family in ("LSTM", "GRU") if args.quick else GATES:
        for name in ("S", "s", "one") if args.quick else SHAPES:
            shape = SHAPES[name]
            least, x = floor(family, shape), tf.random.normal(shape[:3])
            functions = {k: tensorflow_calls(m, family, shape) for k, m in modules.items()}
            for what in ("forward", "train"):
                case = f"{family} {name} {what}"
                calls = {k: functools.partial(f[what], x) for k, f in functions.items()}
                compare(rows, case, calls, seconds, floor=least[what])
                torch_cases[case] = (family, what, shape, seconds)
            if not args.quick:
                calls = {k: fit_call(m, family, shape) for k, m in modules.items()}
                compare(rows, f"{family} {name} fit", calls, seconds)

    for family in ("LSTM", "GRU") if masks else ():
        shape = (None, None, 64, 64)
        functions = {k: tensorflow_calls(m, family, shape, True) for k, m in modules.items()}
        for number, mask in enumerate(masks):
            x, mask = tf.random.normal((*mask.shape, 64)), tf.constant(mask)
            for what in ("forward", "train"):
                calls = {k: functools.partial(f[what], x, mask) for k, f in functions.items()}
                case = f"{family} imdb {number} {what}"
                compare(rows, case, calls, seconds, longest=mask.shape[1])

    with tempfile.TemporaryDirectory() as folder:
        for family in ("LSTM", "GRU"):
            for batch in (1, 64):
                calls = {
                    k: exported_call(m, family, batch, f"{folder}/{family}{batch}{k}")
                    for k, m in modules.items()
                }
                compare(rows, f"{family} exported, batch {batch}", calls, seconds)

    if not args.quick:
        for steps in LENGTHS:
            shape, case = (16, steps, 64, 64), f"LSTM {steps} steps train"
            x = tf.random.normal(shape[:3])
            functions = {k: tensorflow_calls(m, "LSTM", shape) for k, m in modules.items()}
            calls = {k: functools.partial(f["train"], x) for k, f in functions.items()}
            compare(rows, case, calls, seconds, time=steps)
            torch_cases[case] = ("LSTM", "train", shape, seconds)
        for family in ("LSTM", "GRU"):
            for name in ("S", "C", "long", "wide"):
                mib = {k: peak_memory(k, family, name) for k in modules}
                print(f"{family} {name} peak memory of training, MiB: {mib}", flush=True)
                rows += [
                    {"case": f"{family} {name} memory", "library": k, "MiB": v}
                    for k, v in mib.items()
                ]
    add_torch(rows, torch_cases)
    for row in rows:
        if row["case"].endswith("steps train"):
            row["time"] = int(row["case"].split()[1])

    write(rows, args.output, "benchmark.csv")
    if not args.quick:
        picture(plot, rows, path=pathlib.Path(args.output, "benchmark.png"))
    print()
    summary(rows)


def write(rows, folder, name):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
