"""Measure our layers against keras.layers on a backend other than TensorFlow.

    KERAS_BACKEND=torch python examples/benchmark_backends.py    # about a minute
    KERAS_BACKEND=jax python examples/benchmark_backends.py

On JAX `jax.jit` compiles the calls, and "fit" is a call of `train_on_batch`.
Keras's calls and ours alternate. In masked rows, between a quarter and all of the steps are valid.
"""

import statistics

from argument_types import above_zero, command_line
from benchmark import SHAPES, fit_call, in_turn, libraries, spread


def torch_calls(layer, x, mask):
    """Returns the measured calls of a layer by name."""
    import torch

    def forward():
        with torch.no_grad():
            return layer(x, mask=mask)

    def train():
        layer.zero_grad()
        layer(x, mask=mask, training=True).sum().backward()

    return {"forward": forward, "train": train}


def jax_calls(layer, x, mask):
    """As `torch_calls`."""
    import jax

    weights, others = ([v.value for v in of] for of in
                       (layer.trainable_variables, layer.non_trainable_variables))  # fmt: skip

    def run(weights, x, mask, training):
        return layer.stateless_call(weights, others, x, mask=mask, training=training)[0]

    forward = jax.jit(lambda *given: run(*given, training=False))
    train = jax.jit(jax.grad(lambda *given: run(*given, training=True).sum()))
    return {
        "forward": lambda: jax.block_until_ready(forward(weights, x, mask)),
        "train": lambda: jax.block_until_ready(train(weights, x, mask)),
    }


def main():
    p = command_line(__doc__)
    p.add_argument("--seconds", type=above_zero, default=1.0, help="a case")
    args = p.parse_args()
    import keras
    import numpy as np

    backend = keras.backend.backend()
    if backend not in ("torch", "jax"):
        p.error("set KERAS_BACKEND=torch or jax; benchmark.py measures on TensorFlow")
    calls_of = torch_calls if backend == "torch" else jax_calls
    tensor = keras.ops.convert_to_tensor

    ratios = []
    for family in ("LSTM", "GRU"):
        for name in ("s", "S"):
            batch, steps, features, units = SHAPES[name]
            lengths = np.random.default_rng(0).integers(steps // 4, steps + 1, batch)
            x = keras.random.normal((batch, steps, features))
            for mask in (None, tensor(np.arange(steps) < lengths[:, None])):
                calls = {}
                for library, module in libraries().items():
                    layer = getattr(module, family)(units, return_sequences=True)
                    layer.build(x.shape)
                    calls[library] = calls_of(layer, x, mask)
                    if backend == "jax" and mask is None:
                        calls[library]["fit"] = fit_call(module, family, SHAPES[name])
                for what in calls["ours"]:
                    times = in_turn({k: c[what] for k, c in calls.items()}, args.seconds)
                    ms = {k: spread(t)[0] for k, t in times.items()}
                    ratios.append(ms["keras"] / ms["ours"])
                    case = f"{family} {name}{'' if mask is None else ' masked'} {what}"
                    print(f"{case:24}keras {ms['keras']:8.2f} ms  ours {ms['ours']:8.2f} ms  "
                          f"keras/ours {ratios[-1]:5.2f}", flush=True)  # fmt: skip
    print(f"keras/ours {statistics.geometric_mean(ratios):.2f} (geometric mean), "
          f"at least {min(ratios):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
