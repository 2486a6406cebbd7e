"""The data sets of the examples: two of TFDS, and three of ours that need no network.

    reviews = load("toy_reviews", data_dir=None)["train"]

This package needs the extra `examples` (tensorflow-datasets).
"""

import importlib.util

if importlib.util.find_spec("tensorflow_datasets") is None:
    raise ModuleNotFoundError(
        "keras_gated.datasets needs tensorflow-datasets, which the extra `examples` installs: "
        "pip install 'keras_gated[examples]'",
        name="tensorflow_datasets",
    )

from keras_gated.datasets.loading import EMBEDDED, load

__all__ = ["EMBEDDED", "load"]
