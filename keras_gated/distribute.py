"""Training on several machines: a strategy that `model.fit` of Keras 3 works under.

Keras 3.12 to 3.15.1, the newest that was tried, fails under TensorFlow's
`MultiWorkerMirroredStrategy` (keras issue 20585): its trainer asks the strategy for two means that
no strategy can compute. `_Workers.reduce` returns a value for both; Keras itself is not changed. A
Keras that asks for neither mean gets TensorFlow's results: the correction then has no effect.
"""

import hashlib
import json
import os
import re

import keras
import tensorflow as tf

import keras_gated
from keras_gated import keras_private

__all__ = ["check_workers", "strategy"]

_PARTS = ("cluster", "task")
_ADDRESS = re.compile(r"[^\s/]+:(\d{1,5})")


def strategy(**settings) -> tf.distribute.Strategy:
    """Returns the strategy for the cluster that the environment variable TF_CONFIG describes.

    It is `MultiWorkerMirroredStrategy`: every worker holds all weights, computes the gradients of
    its part of each batch, and applies the sum of all. Without TF_CONFIG, or with one worker, it
    is TensorFlow's default strategy, which changes nothing. Call it before TensorFlow computes
    anything; build and compile the model within `strategy.scope()`. The call waits until all
    workers have started.

        strategy = keras_gated.distribute.strategy(units=64)
        with strategy.scope():
            model = ...
            model.compile(...)
        keras_gated.distribute.check_workers(model)
        model.fit(dataset, epochs=3)

    The batch size counts the rows of all workers together. Every worker makes the same data set, in
    the same order, and takes its part of the rows of each batch, so that no row is seen twice and
    none is left out. (This is TensorFlow's `AutoShardPolicy.DATA`. It is used also where TensorFlow
    would divide files among the workers.) `fit` and `evaluate` return the values over all rows and
    `predict` returns all rows, in every worker. On a CPU the workers communicate over gRPC, in a
    ring.

    TF_CONFIG is JSON, as Kubeflow's TFJob and Vertex AI set it:

        {"cluster": {"chief": ["a:2222"], "worker": ["b:2222", "c:2222"]},
         "task": {"type": "worker", "index": 0}}

    Without a chief, worker 0 does the chief's work: `strategy.extended.should_checkpoint` is True
    only in worker 0.

    Args:
        **settings: Values that must be equal in all workers, such as the options of a program:
            anything that JSON can hold. The versions of keras_gated, Keras and TensorFlow must be
            equal, too.

    Raises:
        ValueError: TF_CONFIG is broken or describes what is not supported (parameter servers,
            evaluators), or the workers differ.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "keras_gated.distribute.strategy: TensorFlow's strategies train models of Keras on "
            f"TensorFlow. Received: keras.backend.backend()={keras.backend.backend()!r}. "
            "Set KERAS_BACKEND=tensorflow."
        )
    if _number_of_workers(os.environ.get("TF_CONFIG")) < 2:
        return tf.distribute.get_strategy()
    kind = "AUTO" if tf.config.list_physical_devices("GPU") else "RING"
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation[kind]
    )
    workers = _Workers(communication_options=options)
    versions = {"keras_gated": keras_gated.__version__, "keras": keras.__version__}
    versions["tensorflow"] = tf.__version__
    _compare(workers, {**versions, **settings})
    return workers


def check_workers(model, **settings):
    """Raises an error unless all workers are about to train the same model on the same rows.

    All workers call it before `fit`. It compares the configuration and the shapes of the compiled
    model, and the random seed. The seed sets the order of a shuffled data set: workers with
    different orders would see some rows twice and some never. Under a strategy for one process it
    does nothing.

    Args:
        model: A built and compiled model.
        **settings: Further values that must be equal, such as the epoch of a checkpoint.

    Raises:
        ValueError: The workers differ, or `keras.utils.set_random_seed` was not called.
    """
    workers = model.distribute_strategy
    if not isinstance(workers, _Workers):
        return
    seed = keras_private.global_seed()
    shapes = [(weight.path, weight.shape, weight.dtype) for weight in model.weights]
    config = keras.saving.serialize_keras_object(model)
    _compare(
        workers,
        {"seed": seed, "weights": _digest(shapes), "configuration": _digest(config), **settings},
    )
    if seed is None:
        raise ValueError(
            "check_workers: the workers need one random seed, so that they shuffle the data alike. "
            "Received: none. Call `keras.utils.set_random_seed` with the same number in every "
            "worker."
        )


class _Workers(tf.distribute.MultiWorkerMirroredStrategy):
    """`MultiWorkerMirroredStrategy` with the two means for Keras, and every row given out once."""

    def reduce(self, reduce_op, value, axis):
        """Reduces a value across the workers, as TensorFlow does, except in two cases.

        - A batch (a structure of values): Keras asks for its mean before it builds a model, to
          learn shapes and types. Words have no mean, and the parts of a batch may be of different
          sizes. The result is the part of this worker, which has the same types.
        - The mean of a number over `axis=0`, an axis that a number does not have: Keras asks for it
          after each step. The result is the mean over the workers.
        """
        if keras.tree.is_nested(value):
            return keras.tree.map_structure(self._local, value)
        if axis == 0 and self._local(value).shape.rank == 0:
            axis = None
        return super().reduce(reduce_op, value, axis)

    def _local(self, value):
        return self.experimental_local_results(value)[0]

    def experimental_distribute_dataset(self, dataset, options=None):
        """Gives out the rows of every batch, where TensorFlow would choose between rows and files.

        With files, each worker would read different files, with unequal numbers of rows.
        """
        policies = tf.data.experimental.AutoShardPolicy
        if dataset.options().experimental_distribute.auto_shard_policy == policies.AUTO:
            by_rows = tf.data.Options()
            by_rows.experimental_distribute.auto_shard_policy = policies.DATA
            dataset = dataset.with_options(by_rows)
        return super().experimental_distribute_dataset(dataset, options)


def _number_of_workers(text):
    """Returns how many workers TF_CONFIG names; raises an error where it is broken."""
    if not text:
        return 1
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise _refused(f"it is no JSON ({error})", text) from error
    cluster, task = (config.get(k, {}) if isinstance(config, dict) else None for k in _PARTS)
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise _refused('it must be an object with the objects "cluster" and "task"', text)
    if not cluster:  # as Vertex AI sets it for one machine
        return 1
    kind, index = task.get("type"), task.get("index")
    unknown = sorted({*cluster, str(kind)} - {"chief", "worker", "None"})
    if unknown:
        kinds = 'only "chief" and "worker" are'
        raise _refused(f"tasks of the type {unknown[0]!r} are not supported, {kinds}", text)
    for name, addresses in cluster.items():
        if not isinstance(addresses, list):
            raise _refused(f"{name!r} must be a list of addresses", text)
    addresses = [address for of_kind in cluster.values() for address in of_kind]
    for address in addresses:
        found = isinstance(address, str) and _ADDRESS.fullmatch(address)
        if not found or not 0 < int(found[1]) < 65536:
            raise _refused(f"{address!r} is not HOST:PORT with a port of 1 to 65535", text)
    if len(set(addresses)) < len(addresses):
        raise _refused("an address stands there twice", text)
    if len(cluster.get("chief", ())) > 1:
        raise _refused("there can be one chief only", text)
    if kind not in cluster:
        raise _refused(f"the type of the task, {kind!r}, is not one of the cluster's", text)
    number = len(cluster[kind])
    if not re.fullmatch(r"\d+", str(index)) or int(index) >= number:
        of = f"the cluster has {number} of the type {kind!r}, numbered from 0"
        raise _refused(f"there is no task with the index {index!r}: {of}", text)
    return len(addresses)


def _refused(reason, text):
    return ValueError(
        f"keras_gated.distribute.strategy: TF_CONFIG is refused: {reason}. Received: "
        f"TF_CONFIG={text!r}. It looks like "
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}; unset it to train in one process.'
    )


def _digest(value):
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _compare(workers, mine):
    """Raises an error where the workers' values differ; all of them raise the same one."""
    line = list(json.dumps(mine, default=str).encode() + b"\n")

    def constant():
        return tf.constant(line)

    @tf.function(autograph=False)
    def lines():
        return workers.gather(workers.run(constant), axis=0)

    given = [json.loads(text) for text in bytes(lines().numpy().tolist()).splitlines()]
    names = dict.fromkeys(name for values in given for name in values)
    different = [n for n in names if any(v.get(n) != given[0].get(n) for v in given)]
    if different:
        received = "; ".join(
            f"{name}: " + ", ".join(f"{v.get(name)!r}" for v in given) for name in different
        )
        raise ValueError(
            f"The workers differ in {', '.join(different)}. Received, worker by worker: "
            f"{received}. Start the same program with the same options, in the same environment, "
            "in every worker."
        )
