"""One of the processes that `test_jax.py` starts: it trains with `DataParallel` and saves weights.

KERAS_BACKEND=jax python data_parallel_jax.py PROCESSES INDEX PORT OUT
"""

import pathlib
import sys

import jax
import keras
import numpy as np

import keras_gated

processes, index, port, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if processes > 1:  # before JAX computes anything
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))

GLOBAL = 8  # rows of a batch, of all processes together
draws = np.random.default_rng(0)
IDS, LABELS = draws.integers(1, 20, (32, 12)), draws.normal(size=(32, 1)).astype("float32")
IDS[np.arange(12) >= draws.integers(3, 13, (32, 1))] = 0


def own(rows):
    """Returns the rows of this process, of every global batch."""
    parts = rows.reshape(-1, processes, GLOBAL // processes, *rows.shape[1:])
    return parts[:, index].reshape(-1, *rows.shape[1:])


def trained(family, masked):
    keras.utils.set_random_seed(1)
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(20, 6, mask_zero=masked)(ids)
    model = keras.Model(ids, keras.layers.Dense(1)(getattr(keras_gated, family)(5)(x)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    assert model.jit_compile
    rows = {"x": own(IDS), "y": own(LABELS), "batch_size": GLOBAL // processes}
    return model, rows, model.fit(**rows, epochs=3, shuffle=False, verbose=0).history["loss"]


found = {"ids": IDS}
for family in ("LSTM", "GRU"):
    for masked in (False, True):
        model, rows, loss = trained(family, masked)
        found[f"{family} {masked} loss"] = loss
        for n, weight in enumerate(model.get_weights()):
            found[f"{family} {masked} weight {n}"] = weight
found["evaluated"] = model.evaluate(**rows, verbose=0)
model.save(pathlib.Path(out, f"{processes}-{index}.keras"))
try:
    found["predicted"] = model.predict(IDS, verbose=0)
except RuntimeError as error:
    found["refused"] = str(error)
    keras.distribution.set_distribution(None)  # the way out: the answers of this process alone
    alone = keras.models.clone_model(model)
    alone.set_weights(model.get_weights())
    found["predicted"] = alone.predict(IDS, verbose=0)
np.savez(pathlib.Path(out, f"{processes}-{index}.npz"), **found)
if processes > 1:
    jax.distributed.shutdown()
