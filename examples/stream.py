"""Always-on inference: read a sensor's signal step by step, and report a fault when it happens.

pip install 'keras_gated[examples,onnx,litert]'
python examples/stream.py                           # a minute

The signal comes from a formula: a vibration with noise, and at times a second vibration on top, the
fault. A network learns to tell when there is a fault. It then reads a new signal one step at a time
in TensorFlow, onnxruntime and LiteRT, with 32 and with 8 bits. Printed are the microseconds of a
step (the median), how often its answer is right, and its largest difference from the answers to the
whole signal at once.
"""

import json
import pathlib
import tempfile
import time

import quiet_tensorflow  # noqa: F401
import keras
import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
from argument_types import command_line, positive

import keras_gated


def signals(seed, rows, steps):
    """Returns the signals, `(rows, steps, 1)`, and whether there is a fault, `(rows, steps, 1)`."""
    rng = np.random.default_rng(seed)
    t, phase = np.arange(steps), rng.uniform(0, 2 * np.pi, (2, rows, 1))
    fault = np.sin(2 * np.pi * (t / 120 + rng.random((rows, 1)))) > 0.4
    signal = np.sin(0.5 * t + phase[0]) + 0.6 * fault * np.sin(1.7 * t + phase[1])
    signal += rng.normal(0, 0.1, signal.shape)
    return signal[..., None].astype("float32"), fault[..., None]


def network(units):
    """Returns a network from a signal to the probability of a fault at every step."""
    x = keras.Input((None, 1), name="signal")
    y = keras_gated.LSTM(units, return_sequences=True, name="lstm")(x)
    return keras.Model(x, keras.layers.Dense(1, activation="sigmoid", name="fault")(y))


def in_onnxruntime(path):
    """Returns a function of one step, which keeps its states."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    signal, *before = session.get_inputs()  # the outputs hold the states in the same order
    states = [np.zeros((1, state.shape[1]), "float32") for state in before]
    names = [signal.name, *(state.name for state in before)]

    def step(x):
        nonlocal states
        y, *states = session.run(None, dict(zip(names, [x, *states], strict=True)))
        return y

    return step


def in_litert(path):
    """Returns a function of one step, which keeps its states, of 32 or of 8 bits."""
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    signal, *before = interpreter.get_input_details()
    fault, *after = interpreter.get_output_details()
    for state in before:
        zero = np.full(state["shape"], state["quantization"][1], state["dtype"])
        interpreter.set_tensor(state["index"], zero)

    def step(x):
        scale, zero = signal["quantization"]
        if scale:
            x = np.clip(np.round(x / scale + zero), -128, 127).astype("int8")
        interpreter.set_tensor(signal["index"], x)
        interpreter.invoke()
        for old, new in zip(before, after, strict=True):
            interpreter.set_tensor(old["index"], interpreter.get_tensor(new["index"]))
        scale, zero = fault["quantization"]
        y = interpreter.get_tensor(fault["index"])
        return (y.astype("float32") - zero) * scale if scale else y

    return step


def main():
    p = command_line(__doc__)
    p.add_argument("--units", type=positive, default=32)
    p.add_argument("--epochs", type=positive, default=10)
    p.add_argument("--steps", type=positive, default=1000, help="of the new signal")
    args = p.parse_args()
    keras.utils.set_random_seed(1)
    model = network(args.units)
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")
    model.fit(*signals(1, 512, 120), batch_size=32, epochs=args.epochs, verbose=2)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        typical = [x[None] for x in signals(2, 50, 120)[0]]
        keras_gated.to_onnx(model, folder / "model.onnx", states=True)
        keras_gated.to_onnx(
            model, folder / "8.onnx", states=True, quantize="int8", representative=typical
        )
        keras_gated.to_litert(model, folder / "model.tflite", states=True)
        keras_gated.to_litert(
            model, folder / "8.tflite", states=True, quantize="int8", representative=typical
        )
        ways = {
            "TensorFlow": (keras_gated.stream(model).step, None),
            "onnxruntime": (in_onnxruntime(folder / "model.onnx"), "model.onnx"),
            "onnxruntime, 8 bits": (in_onnxruntime(folder / "8.onnx"), "8.onnx"),
            "LiteRT": (in_litert(str(folder / "model.tflite")), "model.tflite"),
            "LiteRT, 8 bits": (in_litert(str(folder / "8.tflite")), "8.tflite"),
        }
        signal, fault = signals(3, 1, args.steps)
        whole = model.predict(signal, verbose=0)
        for name, (step, file) in ways.items():
            answers, seconds = [], []
            for t in range(args.steps):
                start = time.perf_counter()
                answers.append(step(signal[:, t : t + 1]))
                seconds.append(time.perf_counter() - start)
            answers = np.concatenate(answers, axis=1)
            result = {"runtime": name, "microseconds": round(1e6 * float(np.median(seconds)), 1)}
            result["accuracy"] = round(float(np.mean((answers > 0.5) == fault)), 4)
            result["difference"] = float(f"{np.max(np.abs(answers - whole)):.1e}")
            if file:
                result["kilobytes"] = round((folder / file).stat().st_size / 1e3, 1)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
