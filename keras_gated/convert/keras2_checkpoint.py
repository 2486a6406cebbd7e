"""SavedModels and checkpoints that Keras 2 wrote: their config, and their variables by place.

A checkpoint holds a graph of the saved objects. A layer lists its children by the names of its
attributes, and a variable the key of its array. No function of a SavedModel is loaded or run.
"""

import json
import math
import os

import numpy as np

from keras_gated.cells.arguments import tensorflow_for
from keras_gated.convert.keras2_weights import load_by_place
from keras_gated.convert.keras_checks import RefusedError

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def is_saved_model(path):
    return os.path.isfile(os.path.join(path, "saved_model.pb"))


def is_checkpoint(path):
    """Whether `save_weights` wrote a checkpoint of TensorFlow to this path."""
    return os.path.isfile(f"{path}.index")


def saved_model(path):
    """Returns the config, the number of elements and the loader of a SavedModel.

    Raises:
        RefusedError: If Keras 2 did not write it.
    """
    metadata = _metadata(path)
    if not metadata:
        raise RefusedError(
            "it holds no config of Keras 2 (`keras_metadata.pb`): an export for serving, or of "
            "another library. Convert the model that it was made of."
        )
    root = json.loads(metadata, object_hook=_decoded)
    spec = {name: root[name] for name in ("class_name", "config") if name in root}
    if "config" not in spec:
        raise RefusedError(
            f"it is a {root.get('class_name')}, and must be a functional or sequential model: what "
            "the code of another does cannot be rewritten."
        )
    return spec, *_variables(os.path.join(path, "variables", "variables"))


def checkpoint(path):
    """As `saved_model`, for a checkpoint, which has no config."""
    return None, *_variables(path)


def _metadata(path):
    """Returns the JSON in which Keras 2 described the model, or "".

    Versions from 2.5 on store it in a file of its own, older ones in the graph of the SavedModel.
    """
    tensorflow_for("from_keras")
    from google.protobuf import empty_pb2, unknown_fields
    from tensorflow.core.protobuf import saved_model_pb2

    def fields(content):
        message = empty_pb2.Empty.FromString(content)
        return [(f.field_number, f.data) for f in unknown_fields.UnknownFieldSet(message)]

    own = os.path.join(path, "keras_metadata.pb")
    if os.path.isfile(own):
        with open(own, "rb") as file:
            nodes = [dict(fields(data)) for number, data in fields(file.read()) if number == 1]
        return next((n[5].decode() for n in nodes if n.get(3) == b"root"), "")
    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        graphs = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
    nodes = graphs[0].object_graph_def.nodes if graphs else []
    told = nodes[0].user_object.metadata if nodes else ""
    return told if told.startswith("{") else ""


def _decoded(value):
    """Returns a tuple or a shape as a list. JSON has no type for them."""
    return value["items"] if value.get("class_name") in ("__tuple__", "TensorShape") else value


def _variables(prefix):
    tf = tensorflow_for("from_keras")
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    reader = tf.train.load_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
    if _GRAPH not in shapes:
        raise RefusedError("its checkpoint has no graph of objects: Keras 2 did not write it.")
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_GRAPH))
    places = _Places(graph, reader, shapes)
    elements = sum(math.prod(shape) for shape in shapes.values())
    return elements, lambda model, spec, _: load_by_place(model, spec, places)


class _Places:
    """The variables by place. A call takes the steps to a layer, and our layer at that place."""

    def __init__(self, graph, reader, shapes):
        self._graph, self._reader, self._shapes = graph, reader, shapes
        self._top = self._child(0, "model") or 0  # "model": of `tf.train.Checkpoint(model=...)`

    def __call__(self, place, layer):
        node = self._top
        for step in place:
            if step.role == "layers":
                node = self._child(node, f"layer-{step.index}")
            else:
                node = self._child(node, step.role)
                if step.key:
                    node = self._child(node, str(step.index))
        found = [(v.name, self._child(node, v.name)) for v in layer.variables]
        return [(name, self._array(child)) for name, child in found if child is not None]

    def _child(self, node, name):
        children = [] if node is None else self._graph.nodes[node].children
        return next((child.node_id for child in children if child.local_name == name), None)

    def _array(self, node):
        for attribute in self._graph.nodes[node].attributes:
            if attribute.checkpoint_key in self._shapes:
                return _Array(self._reader, attribute.checkpoint_key, self._shapes)
        raise RefusedError("a variable of its graph has no array. The file is damaged.")


class _Array:
    """An array that is read only when it is indexed, like a data set of HDF5."""

    def __init__(self, reader, key, shapes):
        self._reader, self._key, self.shape = reader, key, tuple(shapes[key])
        self.dtype = np.dtype(reader.get_variable_to_dtype_map()[key].as_numpy_dtype)

    def __getitem__(self, _):
        return self._reader.get_tensor(self._key)
