"""Checks of what a cell class states: when a cell is made, and when its layer is built."""

import numbers
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_gated.cells.arguments import rate


def check_class(cls, owner):
    """Raises an error unless a class names its gates and states."""
    if not cls.gates or isinstance(cls.gates, str):
        raise ValueError(
            f"{owner}: a cell names its gates, in the order of the kernel's columns. Received: "
            f"{cls.__name__}.gates = {cls.gates!r}. For example: gates = ('update', 'candidate')."
        )
    if isinstance(cls.state_names, str) or list(cls.state_names[:1]) != ["hidden"]:
        raise ValueError(
            f"{owner}: the first state is the output and is called 'hidden'. Received: "
            f"{cls.__name__}.state_names = {cls.state_names!r}. For example: "
            "state_names = ('hidden', 'memory')."
        )


def rates_of_states(owner, zoneout, names):
    """Returns the zoneout rate: a number, or a list with a number for each state."""
    if not isinstance(zoneout, (list, tuple)):
        return rate(owner, "zoneout", zoneout)
    if len(zoneout) != len(names):
        raise ValueError(
            f"{owner}: `zoneout` must be a number, or one for each of the {len(names)} state(s) "
            f"{names}. Received: zoneout={zoneout!r}."
        )
    return [rate(owner, "zoneout", value) for value in zoneout]


def number_of_features(owner, input_shape):
    features = input_shape[-1]
    if not isinstance(features, numbers.Integral):
        raise ValueError(
            f"{owner} needs to know the number of features (the last axis of "
            f"its input) when it is built. Received: input_shape={tuple(input_shape)}. "
            "Give the last axis of `keras.Input(shape=(None, features))` a number."
        )
    return features


def by_name(cell, step):
    """Returns the result of a `step` as the cell's `step_type`.

    Raises:
        ValueError: If the result does not have exactly the fields of the `step_type`, by name.
    """
    kind = cell.step_type
    if isinstance(step, kind):
        return step
    given = step._asdict() if hasattr(step, "_asdict") else step
    if not isinstance(given, dict) or set(given) != set(kind._fields):
        received = sorted(given) if isinstance(given, dict) else type(step).__name__
        raise ValueError(
            f"{_class_of(cell)}: `step` must return every gate and state by name, a dict of "
            f"{list(kind._fields)}. Received: {received}. The names are those of the class "
            "attributes `gates` and `state_names`; a `step_type` adds fields."
        )
    for name, value in given.items():
        if not hasattr(value, "shape"):
            raise ValueError(
                f"{_class_of(cell)}: `step` must return {name!r} as a tensor. Received: {value!r}."
            )
    return kind(**given)


def check_step(cell, equations):
    """Tries one step of a built cell, once for all cells that share the `Equations`.

    Args:
        cell: A built cell.
        equations: The `Equations` of the cell.

    Returns:
        Why the loops of the fused path cannot run the step, as a clause, or None if they can. They
        run the rows of a batch in an order of their own, and repeat a step for its derivative.

    Raises:
        ValueError: If `step` reads a trainable weight of the cell that is not among its arguments,
            or returns other fields than the class states, or fields of other widths or dtypes.
    """
    if check_step not in equations.functions:
        equations.functions[check_step] = _checked(cell, equations)
    return equations.functions[check_step]


def _checked(cell, equations):
    name = type(cell).__name__
    try:
        tried = _tried(cell, equations)
    except NotImplementedError:
        raise ValueError(f"{cell.owner}: {name} has no equations. Write its `step`.") from None
    except AttributeError as error:
        if not equations.shared:  # a mistake of another kind
            raise
        raise ValueError(
            f"{cell.owner}: {error}. `{name}.reads` must name every attribute, a number or a "
            f"function, that its equations read besides `units`. Received: {cell.reads}. "
            "Weights reach them as arguments; without `reads` they may read anything else."
        ) from error
    if tried.lost:
        raise ValueError(
            f"{cell.owner}: the `step` of {name} reads the weights {tried.lost} of the cell "
            "itself, so that their gradient would be lost. State them in `weight_shapes`, or "
            "return them from `recurrent_weights`, and take them from its argument `weights`."
        )
    for field, (shape, dtype) in tried.fields.items():
        expected = (1, cell.width_of(field))
        if shape != expected:
            raise ValueError(
                f"{cell.owner}: the `step` of {name} must return {field!r} of shape (batch, "
                f"{expected[1]}). Received: shape {shape} for a batch of 1. `state_widths` states "
                "the widths of states other than `units`."
            )
        if dtype != cell.state_dtype:
            raise ValueError(
                f"{cell.owner}: the `step` of {name} must return {field!r} as {cell.state_dtype}, "
                f"the dtype of its arguments. Received: dtype={dtype}. `keras.ops.cast` changes it."
            )
    return tried.reason


class Tried(NamedTuple):
    fields: dict  # of each gate and state: its shape and dtype
    lost: Any = ()  # names of the cell's trainable weights that the step reads by itself
    reason: str | None = None  # why the loops cannot run the step


def _tried(cell, equations):
    def step(x, states, weights):
        return by_name(cell, equations.step(x, states, tuple(weights)))._asdict()

    def of_fields(values):
        dtypes = {name: keras.backend.standardize_dtype(v.dtype) for name, v in values.items()}
        return {name: (tuple(v.shape), dtypes[name]) for name, v in values.items()}

    def arguments(x, states):
        # Copies: Keras's `convert_to_tensor` returns a variable of TensorFlow unchanged.
        weights = [ops.reshape(w, w.shape) for w in cell.recurrent_weights()]
        return equations.project(x, cell.input_weights()), states, weights

    if keras.backend.backend() != "tensorflow":  # no gradient can be lost, no loop is compiled
        x = ops.zeros((1, cell.input_size), cell.state_dtype)
        return Tried(of_fields(step(*arguments(x, cell.get_initial_state(1)))))
    import tensorflow as tf

    found = []

    def traced(x, states):
        graph = tf.compat.v1.get_default_graph()
        given = arguments(x, states)
        before = len(graph.get_operations())
        fields = of_fields(step(*given))
        operations = graph.get_operations()[before:]
        inputs = {id(tensor) for operation in operations for tensor in operation.inputs}
        read = [outer for outer, inner in graph.captures if id(inner) in inputs]
        specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), given)
        found.append((fields, read, _why_not_in_loops(cell, graph, operations, read), specs))

    # Traced, not run: if a function builds the layer, its weights have no values yet.
    widths = (cell.input_size, *cell.state_widths())
    x, *states = (tf.TensorSpec((1, width), cell.state_dtype) for width in widths)
    with tf.init_scope():
        tf.function(traced, autograph=False).get_concrete_function(x, states)
        fields, read, reason, specs = found[-1]  # a step that builds something is traced twice
        own = [w for w in cell.own_weights().values() if w.trainable]
        lost = [w.name for w in own if _is_among(w, read)]
        if not reason and _joins_rows(step, *specs):
            reason = f"the `step` of {type(cell).__name__} computes with several rows together"
    return Tried(fields, lost, reason)


LARGEST = 1 << 26  # numbers in the weights with which a step is tried: a file may claim any size
_PURE = ("Assert", "CheckNumerics", "DebugNumeric", "DebugIdentity")  # but TensorFlow denies it


def _why_not_in_loops(cell, graph, operations, read):
    """Returns why the loops cannot run a step, or None.

    Args:
        graph: The graph that holds the step.
        operations: The operations of the step.
        read: The tensors from outside of the graph that they read.
    """
    name = type(cell).__name__
    if read:
        known = (w.name for w in cell.weights if _is_among(w, read[:1]))
        which = next(map(repr, known), "a tensor or a variable")
        return f"the `step` of {name} reads {which} that is none of its arguments"
    for op in operations:
        if op.op_def.is_stateful and not op.type.startswith(_PURE):
            return (
                f"the `step` of {name} has the operation {op.type}, which may do something else "
                "when it is repeated"
            )
    written = graph.as_graph_def()
    nodes = [*written.node, *(node for f in written.library.function for node in f.node_def)]
    if any(node.op in ("While", "StatelessWhile") for node in nodes):
        return f"the `step` of {name} has a loop of its own"
    return None


def _is_among(weight, handles):
    try:
        return any(weight.value.handle is handle for handle in handles)
    except ValueError:  # a weight with copies on several devices has no handle of its own
        return False


def _joins_rows(step, x, states, weights):
    """Whether what a step computes of a row changes with the other row of the batch.

    Args:
        step: The function of a step.
        x, states, weights: The shapes and dtypes of its arguments, for one row.
    """
    import tensorflow as tf

    if sum(weight.shape.num_elements() for weight in weights) > LARGEST:
        return False
    draw = np.random.default_rng(0)
    weights = [tf.fill(weight.shape, tf.cast(0.1, weight.dtype)) for weight in weights]
    sizes = [(2 * spec.shape[0], *spec.shape[1:]) for spec in (x, *states)]
    by_row = [tf.constant(draw.normal(size=size), x.dtype) for size in sizes]
    others = [tf.concat([value[:1], -value[1:]], 0) for value in by_row]
    one, other = (step(a[0], a[1:], weights) for a in (by_row, others))  # a function costs more
    return not all(
        np.allclose(one[name][:1], other[name][:1], rtol=1e-3, atol=1e-6, equal_nan=True)
        for name in one
    )


def _class_of(cell):
    return getattr(cell, "owner", None) or type(cell).__name__
