"""Writes SavedModels for TensorFlow Serving: whole versions or none."""

import os
import pathlib
import shutil
import uuid

import keras
from tensorflow.core.protobuf import saved_model_pb2

from keras_gated import cudnn

# Ops that a stock server has no kernel for, or that must be compiled, which it does not.
_REFUSED_OPS = {
    "PyFunc": "calls Python",
    "PyFuncStateless": "calls Python",
    "EagerPyFunc": "calls Python",
    "XlaLaunch": "must be compiled by XLA",
    "CudnnRNN": "runs on a GPU only",
    "CudnnRNNV2": "runs on a GPU only",
    "CudnnRNNV3": "runs on a GPU only",
}


def export_signatures(directory, signatures, track, extras=None):
    """Writes `directory/<version>/`, a SavedModel, as the next free version.

    Args:
        directory: Where the versions of one model stand, as TensorFlow Serving mounts it.
        signatures: Signature name to `(function, input_specs)`. The function takes one tensor
            per spec, each with a batch axis, and returns a dict of named outputs. The first one is
            the default: name it `serving_default`.
        track: The models and lookup layers that the functions use.
        extras: Optional files to lie beside the model, in `assets.extra`, which a server leaves
            alone: file name to a function that writes the path it is given.

    Returns:
        The path of the new version, a string.

    Raises:
        ValueError: If an input lacks a batch axis, or the graph holds what a stock server cannot
            run. Nothing is left behind, and other versions are untouched.
    """
    archive = keras.export.ExportArchive()
    for resource in track:
        archive.track(resource)
    for name, (function, specs) in signatures.items():
        for spec in specs:
            if spec.shape.rank == 0 or spec.shape[0] is not None:
                raise ValueError(
                    f"export_signatures: every input of signature {name!r} must have a batch axis "
                    f"of unknown size first. Received: {spec}. Use TensorSpec((None, ...), ...)."
                )
        with cudnn.off():
            archive.add_endpoint(name, function, input_signature=specs)

    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # The server ignores names that are not numbers, so it never sees half a version.
    unfinished = directory / f"unfinished-{uuid.uuid4().hex}"
    try:
        with cudnn.off():
            archive.write_out(str(unfinished), verbose=False)
        check_export(unfinished)
        for name, write in (extras or {}).items():
            (unfinished / "assets.extra").mkdir(exist_ok=True)
            write(str(unfinished / "assets.extra" / name))
        return str(_rename_to_next_version(unfinished, directory))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _rename_to_next_version(unfinished, directory):
    versions = [int(p.name) for p in directory.iterdir() if p.name.isdecimal()]
    version = max(versions, default=0) + 1
    while True:
        try:
            os.rename(unfinished, directory / str(version))
            return directory / str(version)
        except OSError:  # somebody else took the number: a directory that is not empty stays
            if not (directory / str(version)).exists():
                raise
            version += 1


def check_export(directory):
    """Raises if a stock TensorFlow Serving could not run a SavedModel, or its answers would mix.

    Args:
        directory: A version: the directory that holds `saved_model.pb`.

    Raises:
        ValueError: Naming the nodes that call Python, must be compiled by XLA, need a GPU, or
            keep a state that all callers of a server would share.
    """
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((pathlib.Path(directory) / "saved_model.pb").read_bytes())
    offenders = set()
    for meta_graph in saved.meta_graphs:
        library = meta_graph.graph_def.library.function
        nodes = [*meta_graph.graph_def.node, *(n for f in library for n in f.node_def)]
        for node in nodes:
            if node.op in _REFUSED_OPS:
                offenders.add(f"{node.name} ({node.op}: {_REFUSED_OPS[node.op]})")
        for item in [*nodes, *library]:
            if item.attr["_XlaMustCompile"].b:
                name = getattr(item, "name", None) or item.signature.name
                offenders.add(f"{name} (must be compiled by XLA)")
        for node in _nodes_of_signatures(meta_graph):
            if node.op.startswith("Assign"):
                offenders.add(f"{node.name} ({node.op}: a state that all callers would share)")
    if offenders:
        raise ValueError(
            f"The SavedModel in {directory} cannot be served by a stock TensorFlow Serving: "
            f"{', '.join(sorted(offenders))}. Build the model without `jit_compile=True`, "
            "`tf.py_function`, GPU-only layers and `stateful=True` (take the states as inputs and "
            "return them: `initial_state`, `return_state=True`), and export it again."
        )


def _nodes_of_signatures(meta_graph):
    """Yields the nodes that a call of a signature can run; saving and restoring are others."""
    functions = {f.signature.name: f for f in meta_graph.graph_def.library.function}
    graph = {node.name: node for node in meta_graph.graph_def.node}
    signatures = meta_graph.signature_def
    outputs = [
        t.name
        for name, s in signatures.items()
        if name != "__saved_model_init_op"
        for t in s.outputs.values()
    ]
    waiting = [graph[name.split(":")[0]] for name in outputs]
    seen_nodes, seen_functions = set(), set()
    while waiting:
        node = waiting.pop()
        yield node
        for name in node.input:
            name = name.lstrip("^").split(":")[0]
            if name in graph and name not in seen_nodes:
                seen_nodes.add(name)
                waiting.append(graph[name])
        for attribute in node.attr.values():
            for called in (attribute.func, *attribute.list.func):
                if called.name in functions and called.name not in seen_functions:
                    seen_functions.add(called.name)
                    waiting += functions[called.name].node_def
