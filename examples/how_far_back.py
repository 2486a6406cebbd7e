"""Show how far back through time the gradient of a vanilla RNN, an LSTM and a GRU reaches.

    python examples/how_far_back.py     # writes how_far_back.png

The task: after T steps of noise, return the number that the first step held. The plot shows the
norm of the loss's derivative by the state after the first step, divided by the same norm for the
last step, over T = 10 to 500: with initial weights, and after training on lengths that grow to 500.
"""

import pathlib
import time

import quiet_tensorflow  # noqa: F401
import keras
import numpy as np
from argument_types import command_line, picture_file, positive, seed
from pictures import picture

import keras_gated

FAMILIES = {
    "SimpleRNN": keras_gated.SimpleRNN,
    "LSTM": keras_gated.LSTM,
    "GRU": keras_gated.GRU,
}
LENGTHS = (10, 20, 50, 100, 200, 350, 500)


def first_numbers(rng, rows, steps):
    """Returns sequences `(rows, steps, 2)` and their first numbers, `(rows, 1)`.

    A step holds a number, and 1 if this number is to be kept or 0 if it is noise.
    """
    x = np.zeros((rows, steps, 2), "float32")
    x[..., 0] = rng.normal(0, 0.3, (rows, steps))
    x[:, 0] = np.stack([rng.uniform(-1, 1, rows), np.ones(rows)], -1)
    return x, x[:, 0, :1]


def build(family, units=32):
    inputs = keras.Input((None, 2))
    outputs = keras.layers.Dense(1)(FAMILIES[family](units, name="recurrent")(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(3e-3, clipnorm=1.0), "mse")
    return model


def keep_for(model, steps, seed=0):
    """Sets the gates of an LSTM or GRU so that its units keep their memory for 1 to `steps` steps.

    The biases of Tallec and Ollivier 2018, arXiv:1804.11188, equation 16.
    """
    cell = model.get_layer("recurrent").cell
    keeping = np.log(np.random.default_rng(seed).uniform(1, steps - 1, cell.units))
    kernel, recurrent_kernel, bias = cell.get_weights()
    of_gate = bias.reshape(-1, len(cell.gates), cell.units)[0]  # a view: changes `bias`
    if "forget" in cell.gates:
        of_gate[cell.gates.index("forget")] = keeping
        of_gate[cell.gates.index("input")] = -keeping
    else:
        of_gate[cell.gates.index("update")] = -keeping
    cell.set_weights([kernel, recurrent_kernel, bias])


def train(model, longest, batches, seed=0):
    """For each of `longest` in turn, trains on lengths from 10 to it, with `batches` of 32 rows."""
    rng = np.random.default_rng(seed)
    for steps in longest:
        for _ in range(batches):
            model.train_on_batch(*first_numbers(rng, 32, rng.integers(10, steps + 1)))


def reach(model, steps, seed=1):
    """Returns the norm of the gradient by the first state, divided by that by the last state.

    The state is the memory of an LSTM, and the hidden state of other families. The norms are means
    over 64 sequences.
    """
    x, y = first_numbers(np.random.default_rng(seed), 64, steps)
    flow = keras_gated.gradient_flow(model, x, y, "recurrent", contributions=False)
    norms = np.mean(flow.hidden if flow.memory is None else flow.memory, axis=0)
    return float(norms[0] / norms[-1])


def error(model, steps, seed=1):
    """Returns the mean squared error. A model that always answers 0 has 1/3."""
    return model.evaluate(*first_numbers(np.random.default_rng(seed), 256, steps), verbose=0)


def plot(curves, path):
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
    colours = {"SimpleRNN": "C3", "LSTM": "C0", "GRU": "C2"}
    for axis, (title, lines) in zip(axes, curves.items(), strict=True):
        for (family, note, style), values in lines.items():
            # Values that are exactly 0 in float32 are drawn at the bottom.
            shown = np.maximum(values, 1e-21)
            wide = {"LSTM": 4, "GRU": 1.5}.get(family, 2)  # both stay visible if the curves overlap
            axis.plot(
                LENGTHS, shown, style, color=colours[family], linewidth=wide, label=family + note
            )
        axis.set(xlabel="steps T", title=title, yscale="log", ylim=(1e-20, 1e2))
        axis.grid(alpha=0.3)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize="small")
    axes[0].set_ylabel("gradient at step 1 / at step T")
    figure.savefig(path)


def main():
    p = command_line(__doc__)
    p.add_argument(
        "--batches", type=positive, default=1000, help="of training at each of five lengths"
    )
    p.add_argument("--seed", type=seed, default=1)
    p.add_argument("--output", type=picture_file, default="how_far_back.png")
    args = p.parse_args()
    start = time.time()
    initial, trained = {}, {}
    for family in FAMILIES:
        keras.utils.set_random_seed(args.seed)
        model = build(family)
        initial[family, "", "o--"] = [reach(model, steps) for steps in LENGTHS]
        train(model, (20, 50, 100, 200, 500), args.batches, args.seed)
        final = error(model, 500)
        trained[family, f", error {final:.4f}", "o-"] = [reach(model, steps) for steps in LENGTHS]
        print(f"{family}: error at 500 steps {final:.5f}, {time.time() - start:.0f} s", flush=True)
        if family != "SimpleRNN":
            set_for = []
            for steps in LENGTHS:
                keras.utils.set_random_seed(args.seed)
                model = build(family)
                keep_for(model, steps)
                set_for.append(reach(model, steps))
            initial[family, ", gates set for T", "s-"] = set_for
    for name, lines in (("initial", initial), ("trained", trained)):
        for (family, note, _), values in lines.items():
            print(name, family + note, " ".join(f"{v:.1e}" for v in values))
    curves = {"Initial weights": initial, "Trained": trained}
    picture(plot, curves, path=pathlib.Path(args.output))


if __name__ == "__main__":
    main()
