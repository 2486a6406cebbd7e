"""Graphs of ONNX made by hand, and runtimes to ask."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

UNITS, FEATURES = 2, 3
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
X = np.random.default_rng(9).normal(0, 2, (5, 4, FEATURES)).astype("float32")  # time first


def constants(kind, directions=1, seed=0):
    rng, width = np.random.default_rng(seed), GATES[kind] * UNITS
    shapes = {"W": (width, FEATURES), "R": (width, UNITS), "B": (2 * width,)}
    return {n: rng.normal(size=(directions, *s)).astype("float32") for n, s in shapes.items()}


def model_of(
    nodes, arrays, inputs=(("x", 1, ["time", "batch", FEATURES]),), outputs=("y",), opset=17
):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*declared) for declared in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],  # of what type onnxruntime finds
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def recurrent(kind, direction="forward", arrays=None, inputs=("x", "W", "R", "B"), **attributes):
    """Returns a graph of one recurrent node, called `told`."""
    arrays = arrays or constants(kind, 1 + (direction == "bidirectional"))
    node = helper.make_node(
        kind,
        inputs,
        ["y_apart"],
        name="told",
        **{"hidden_size": UNITS, "direction": direction, **attributes},
    )
    # The directions side by side: a model of Keras can put these out.
    turn = helper.make_node("Transpose", ["y_apart"], ["turned"], perm=[0, 2, 1, 3])
    joined = helper.make_node("Reshape", ["turned", "shape"], ["y"])
    return model_of([node, turn, joined], {**arrays, "shape": np.array([0, 0, -1])})


def ask_onnxruntime(model, given):
    content = model if isinstance(model, (str, bytes)) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, given)


def nodes_of(path, kinds=tuple(GATES)):
    return [node for node in onnx.load(str(path)).graph.node if node.op_type in kinds]
