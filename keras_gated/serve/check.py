"""Finds what a stock TensorFlow Serving cannot load or run in a SavedModel's files and graph."""

import fnmatch
import os
import pathlib

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2

from keras_gated import keras_private
from keras_gated.serve import warmup

# Ops for which a stock server has no kernel, or which must be compiled: a server does not compile.
_REFUSED_OPS = {
    "PyFunc": "calls Python",
    "PyFuncStateless": "calls Python",
    "EagerPyFunc": "calls Python",
    "XlaLaunch": "must be compiled by XLA",
    "CudnnRNN": "runs on a GPU only",
    "CudnnRNNV2": "runs on a GPU only",
    "CudnnRNNV3": "runs on a GPU only",
}
# Ops that answer the same request differently, by the beginning of their names.
_NOT_THE_SAME_TWICE = {
    "Assign": "a state that all callers would share",
    "Random": "a random number that nobody seeds",
    "TruncatedNormal": "a random number that nobody seeds",
    "ParameterizedTruncatedNormal": "a random number that nobody seeds",
    "Multinomial": "a random number that nobody seeds",
    "StatefulRandom": "a state of random numbers that all callers would share",
    "StatefulStandardNormal": "a state of random numbers that all callers would share",
    "StatefulTruncatedNormal": "a state of random numbers that all callers would share",
    "StatefulUniform": "a state of random numbers that all callers would share",
    "Rng": "a state of random numbers that all callers would share",
}


def check_export(directory: str | os.PathLike) -> None:
    """Raises if a stock TensorFlow Serving could not run a SavedModel, or would mix its callers.

    Args:
        directory: A version: the directory that holds `saved_model.pb`.

    Raises:
        ValueError: If TensorFlow would read the path as a pattern; naming the files that are
            missing or damaged; the nodes that call Python, are custom ops, must be compiled by XLA,
            need a GPU, draw random numbers without a seed from the request, or keep a state that
            all callers of a server would share; and the inputs and outputs without a batch axis.
    """
    if not isinstance(directory, (str, os.PathLike)):
        raise ValueError(
            "check_export: `directory` must be the path of one version of a model. Received: "
            f"{directory!r} (of type {type(directory).__name__})."
        )
    if is_pattern(directory):
        raise ValueError(
            "check_export: `directory` must be a path that TensorFlow does not read as a pattern. "
            f"Received: {os.fspath(directory)!r}. Rename the folder, without `[`, `]` and `\\`."
        )
    saved = _read_graph(pathlib.Path(directory))
    _check_files(pathlib.Path(directory), saved)
    offenders = set()
    for meta_graph in saved.meta_graphs:
        library = meta_graph.graph_def.library.function
        functions = {function.signature.name for function in library}
        nodes = [*meta_graph.graph_def.node, *(n for f in library for n in f.node_def)]
        for node in nodes:
            if node.op in _REFUSED_OPS:
                offenders.add(f"{node.name} ({node.op}: {_REFUSED_OPS[node.op]})")
            elif not hasattr(tf.raw_ops, node.op) and node.op not in functions:
                offenders.add(f"{node.name} ({node.op}: a custom op)")
        for item in [*nodes, *library]:
            if item.attr["_XlaMustCompile"].b:
                name = getattr(item, "name", None) or item.signature.name
                offenders.add(f"{name} (must be compiled by XLA)")
        for node in _nodes_of_signatures(meta_graph):
            for beginning, reason in _NOT_THE_SAME_TWICE.items():
                if node.op.startswith(beginning):
                    offenders.add(f"{node.name} ({node.op}: {reason})")
        for name, signature in meta_graph.signature_def.items():
            for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
                for key, tensor in tensors.items():
                    dims = tensor.tensor_shape.dim
                    if not tensor.tensor_shape.unknown_rank and (not dims or dims[0].size != -1):
                        offenders.add(f"{name}: {key} (an {kind} without a batch axis)")
    if offenders:
        raise ValueError(
            f"The SavedModel in {directory} cannot be served by a stock TensorFlow Serving: "
            f"{', '.join(sorted(offenders))}. Build the model without `jit_compile=True`, "
            "`tf.py_function`, GPU-only layers and `stateful=True` (take the states as inputs and "
            "return them: `export_model(..., states=True)`), draw random numbers with "
            "`tf.random.stateless_uniform` and a seed for each row, and export it again."
        )
    _check_checksum(pathlib.Path(directory))


def is_pattern(path):
    """Whether TensorFlow would look for the weights elsewhere: it reads `[ab]` as one of `ab`."""
    path = os.fspath(path)
    return not fnmatch.fnmatchcase(path, path) or (os.sep == "/" and "\\" in path)


def _read_graph(version):
    path = version / "saved_model.pb"
    if not path.is_file():
        inside = sorted(p.name for p in version.glob("*") if (p / "saved_model.pb").is_file())
        raise ValueError(
            "check_export: `directory` must be one version of a model, which holds saved_model.pb. "
            f"Received: {version}, where there is no saved_model.pb."
            + (f" Give one of the versions in it: {', '.join(inside)}." if inside else "")
        )
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise _damaged(path, f"cannot be read as a SavedModel ({error})") from None
    if not any("serve" in graph.meta_info_def.tags for graph in saved.meta_graphs):
        raise _damaged(path, f"holds no graph for serving ({path.stat().st_size} bytes)")
    return saved


def _check_files(version, saved):
    """Raises if the graph needs a weight or a file that cannot be read beside it."""
    for graph in saved.meta_graphs:
        for asset in graph.asset_file_def:
            path = version / "assets" / asset.filename
            if not path.is_file():
                raise _damaged(path, "is missing, though the graph reads it")
    path = version / "assets.extra" / warmup.FILE
    if path.is_file():  # a server reads it before it is ready
        try:
            for _ in tf.data.TFRecordDataset(str(path)):
                pass
        except tf.errors.OpError as error:
            raise _damaged(path, f"cannot be read as records ({error.message})") from None
    restored = {name for graph in saved.meta_graphs for name in _restored(graph.graph_def)}
    restored.discard("_CHECKPOINTABLE_OBJECT_GRAPH")  # not a weight: graphs without weights have it
    prefix = version / "variables" / "variables"
    if not restored and not prefix.parent.exists():
        return
    try:
        weights = tf.train.load_checkpoint(str(prefix))
        names = set(weights.get_variable_to_shape_map())
        for name in names:
            weights.get_tensor(name)  # compares the checksum
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError) as error:
        words = str(getattr(error, "message", error)).splitlines()[0]
        raise _damaged(prefix.parent, f"do not hold the weights, whole ({words})") from None
    if missing := sorted(restored - names):
        raise _damaged(prefix.parent, f"lack weights that the graph restores: {missing[:3]}")


def _check_checksum(version):
    """Raises if the graph is not the one that was written, of which TensorFlow kept a checksum."""
    path = version / "fingerprint.pb"
    if not path.is_file():  # TensorFlow before 2.12 wrote none
        return
    written, found = fingerprint_pb2.FingerprintDef(), fingerprint_pb2.FingerprintDef()
    try:
        written.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise _damaged(path, f"cannot be read as a fingerprint ({error})") from None
    found.ParseFromString(keras_private.fingerprinting.CreateFingerprintDef(str(version)))
    same_kind = written.version.producer == found.version.producer
    if same_kind and written.saved_model_checksum != found.saved_model_checksum:
        raise _damaged(
            version / "saved_model.pb",
            "has not the checksum that fingerprint.pb holds (delete that file if you changed the "
            "graph yourself)",
        )


def _damaged(path, what):
    return ValueError(
        f"check_export: `directory` must be a whole SavedModel. Received: {path.parent}, of which "
        f"{path.name} {what}. Copy the version again, or export the model anew."
    )


def _restored(graph_def):
    """Yields the names of the weights that a graph reads from the files beside it."""
    for nodes in (graph_def.node, *(function.node_def for function in graph_def.library.function)):
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if node.op == "RestoreV2":
                names = by_name.get(node.input[1].split(":")[0])
                if names is not None and names.op == "Const":
                    for name in tf.make_ndarray(names.attr["value"].tensor).ravel():
                        yield name.decode()


def _nodes_of_signatures(meta_graph):
    """Yields the nodes that a call of a signature can run, without those that save and restore."""
    functions = {f.signature.name: f for f in meta_graph.graph_def.library.function}
    graph = {node.name: node for node in meta_graph.graph_def.node}
    signatures = meta_graph.signature_def
    outputs = [
        t.name
        for name, s in signatures.items()
        if name != "__saved_model_init_op"
        for t in s.outputs.values()
    ]
    waiting = [(graph[name.split(":")[0]], graph) for name in outputs]
    seen_nodes, seen_functions = set(), set()
    while waiting:
        node, around = waiting.pop()
        yield node
        for name in node.input:
            name = name.lstrip("^").split(":")[0]
            if name in around and name not in seen_nodes:
                seen_nodes.add(name)
                waiting.append((around[name], around))
        for attribute in node.attr.values():
            for called in (attribute.func, *attribute.list.func):
                if called.name in functions and called.name not in seen_functions:
                    seen_functions.add(called.name)
                    # All nodes of a function count. Their names are apart from the outer graph's.
                    waiting += [(inner, {}) for inner in functions[called.name].node_def]
