"""The data sets of the examples: two stock ones of TFDS and two of ours that need no network.

    reviews = load("toy_reviews", data_dir=None)["train"]

This package needs the extra `examples` (tensorflow-datasets).
"""

from keras_gated.datasets.loading import EMBEDDED, load

__all__ = ["EMBEDDED", "load"]
