"""What a stock TensorFlow Serving cannot run, found in a SavedModel's graph."""

import pathlib

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

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
# What answers differently to the same request, by the beginning of an op's name.
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


def check_export(directory):
    """Raises if a stock TensorFlow Serving could not run a SavedModel, or its answers would mix.

    Args:
        directory: A version: the directory that holds `saved_model.pb`.

    Raises:
        ValueError: Naming the nodes that call Python, are custom ops, must be compiled by XLA,
            need a GPU, draw random numbers without a seed of the request's, or keep a state that
            all callers of a server would share; and the inputs without a batch axis.
    """
    saved = saved_model_pb2.SavedModel()
    path = pathlib.Path(directory) / "saved_model.pb"
    if not path.exists():
        raise ValueError(
            f"check_export: `directory` must be one version of a model. Received: {directory}, "
            "where there is no saved_model.pb."
        )
    saved.ParseFromString(path.read_bytes())
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
            for key, tensor in signature.inputs.items():
                dims = tensor.tensor_shape.dim
                if not tensor.tensor_shape.unknown_rank and (not dims or dims[0].size != -1):
                    offenders.add(f"{name}: {key} (an input without a batch axis)")
    if offenders:
        raise ValueError(
            f"The SavedModel in {directory} cannot be served by a stock TensorFlow Serving: "
            f"{', '.join(sorted(offenders))}. Build the model without `jit_compile=True`, "
            "`tf.py_function`, GPU-only layers and `stateful=True` (take the states as inputs and "
            "return them: `export_model(..., states=True)`), draw random numbers with "
            "`tf.random.stateless_uniform` and a seed for each row, and export it again."
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
