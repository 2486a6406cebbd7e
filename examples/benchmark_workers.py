"""The measurements of `benchmark.py` that need a separate process: PyTorch, and peak memory.

PyTorch's waiting threads would slow down later measurements, and a process's peak never falls.
"""

import json
import pathlib
import sys

import benchmark
import benchmark_answers


def memory_worker(library, family, shape):
    import tensorflow as tf

    sizes = {**benchmark.SHAPES, "wide": benchmark_answers.WIDE}[shape]
    call = benchmark.tensorflow_calls(benchmark.libraries()[library], family, sizes)["train"]
    x = tf.random.normal(sizes[:3])
    before = peak_of_this_process()
    for _ in range(3):
        call(x)
    print(round((peak_of_this_process() - before) / 1024))


def peak_of_this_process():
    """Returns the peak in KiB. Linux's `ru_maxrss` would begin with the parent process's peak."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def torch_worker(cases):
    import torch

    results = {}
    for case, (family, what, shape, seconds) in json.loads(cases).items():
        batch, steps, features, units = shape
        kind = {"SimpleRNN": "RNN"}.get(family, family)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        layer = getattr(torch.nn, kind)(features, units, batch_first=True, device=device)
        x = torch.randn(batch, steps, features, requires_grad=what == "train", device=device)
        lengths = torch.from_numpy(benchmark_answers.random_mask(shape).sum(1))

        def call(layer=layer, x=x, what=what, lengths=lengths):
            with torch.set_grad_enabled(what == "train"):
                if what == "packed":  # as PyTorch's own documentation tells users to
                    packed = torch.nn.utils.rnn.pack_padded_sequence(
                        x, lengths, batch_first=True, enforce_sorted=False
                    )
                    return torch.nn.utils.rnn.pad_packed_sequence(layer(packed)[0])
                outputs = layer(x)[0]
                if what == "train":
                    layer.zero_grad()
                    outputs.sum().backward()
                return outputs.flatten()[0].item()  # waits until a GPU has computed it

        results[case] = benchmark.in_turn({"torch": call}, seconds)["torch"]
    print(json.dumps(results))


if __name__ == "__main__":
    {"torch": torch_worker, "memory": memory_worker}[sys.argv[1]](*sys.argv[2:])
