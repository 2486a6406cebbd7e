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


def export_signatures(directory, signatures, track):
    """Writes `directory/<version>/`, a SavedModel, as the next free version.

    Args:
        directory: Where the versions of one model stand, as TensorFlow Serving mounts it.
        signatures: Signature name to `(function, input_specs)`. The function takes one tensor
            per spec, each with a batch axis, and returns a dict of named outputs. The first one is
            the default: name it `serving_default`.
        track: The models and lookup layers that the functions use.

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
    """Raises if a stock TensorFlow Serving could not run a SavedModel.

    Args:
        directory: A version: the directory that holds `saved_model.pb`.

    Raises:
        ValueError: Naming the nodes that call Python, must be compiled by XLA or need a GPU.
    """
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((pathlib.Path(directory) / "saved_model.pb").read_bytes())
    offenders = []
    for meta_graph in saved.meta_graphs:
        library = meta_graph.graph_def.library.function
        nodes = [*meta_graph.graph_def.node, *(n for f in library for n in f.node_def)]
        offenders += [
            f"{n.name} ({n.op}: {_REFUSED_OPS[n.op]})" for n in nodes if n.op in _REFUSED_OPS
        ]
        compiled = [*nodes, *library]
        offenders += [
            f"{getattr(n, 'name', None) or n.signature.name} (must be compiled by XLA)"
            for n in compiled
            if n.attr["_XlaMustCompile"].b
        ]
    if offenders:
        raise ValueError(
            f"The SavedModel in {directory} cannot run on a stock TensorFlow Serving: "
            f"{', '.join(sorted(set(offenders)))}. Build the model without `jit_compile=True`, "
            "`tf.py_function` and GPU-only layers, and export it again."
        )
