"""Short chunks, so that a few steps and rows need several chunks and groups."""

import functools

from keras_gated.cells import equations
from keras_gated.paths import packing


def shorten_chunks(monkeypatch, steps=3):
    for name in ("COMPILED", "PLAIN"):
        layout = getattr(packing, name)._replace(steps=steps, numbers=0)
        monkeypatch.setattr(packing, name, layout)
    # What was traced with other sizes is not used meanwhile, nor this afterwards.
    monkeypatch.setattr(equations, "_shared", functools.cache(equations._shared.__wrapped__))
