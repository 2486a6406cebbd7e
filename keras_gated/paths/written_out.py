"""The cell's own loop with every step written out, for runtimes that cannot finish a loop.

It needs a fixed number of steps. The graph grows with the number of steps; the weights do not.
"""

from keras_gated.paths import keras_loop


def run(call):
    """As in `Path`."""
    return keras_loop.run(call, unroll=True)
