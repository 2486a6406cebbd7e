"""The trial of a step when a layer is built: whether the loops of the fused path can run it.

They run the rows of a batch in an order of their own, leave out masked steps, and repeat a step for
its derivative. Training and inference share what is traced. So a step must compute each row for
itself, from its arguments alone.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_gated.cells.contract import by_name
from keras_gated.keras_private import in_stateless_scope, training_in_calls


def check_step(cell, equations):
    """Tries one step of a built cell, once for all cells that share the `Equations`.

    Args:
        cell: A built cell.
        equations: The `Equations` of the cell.

    Returns:
        Why the loops of the fused path cannot run the step, as a clause, or None if they can.

    Raises:
        ValueError: If `step` reads a trainable weight of the cell that is not among its arguments,
            or returns other fields than the class states, or fields of other widths or dtypes.
    """
    # While Keras builds a model in a stateless scope, weights are tensors. A trial there does not
    # see which of them a step reads.
    return equations.once((check_step, in_stateless_scope()), lambda: _checked(cell, equations))


def _checked(cell, equations):
    name, before = type(cell).__name__, dict(vars(cell))
    try:
        tried = _tried(cell, equations)
    except NotImplementedError as error:
        if error.args:  # of an operation
            raise
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
        width = cell.width_of(field)
        if len(shape) != 2 or shape[1] != width:
            raise ValueError(
                f"{cell.owner}: the `step` of {name} must return {field!r} of shape (batch, "
                f"{width}). Received: shape {shape} for a batch of 1. `state_widths` states "
                "the widths of states other than `units`."
            )
        if shape[0] != 1:
            tried = tried._replace(reason=f"the `step` of {name} has a number of rows of its own")
        if keras.backend.backend() == "tensorflow" and dtype != cell.state_dtype:
            raise ValueError(
                f"{cell.owner}: the `step` of {name} must return {field!r} as {cell.state_dtype}, "
                f"the dtype of its arguments. Received: dtype={dtype}. `keras.ops.cast` changes it."
            )
    now = vars(cell)
    equations.notes = frozenset(n for n in now if n not in before or now[n] is not before[n])
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
        x = ops.zeros((1, cell.input_width()), cell.state_dtype)
        return Tried(of_fields(step(*arguments(x, cell.get_initial_state(1)))))
    import tensorflow as tf

    found = []

    def traced(x, states):
        graph = tf.compat.v1.get_default_graph()
        given = arguments(x, states)
        before = len(graph.get_operations())
        fields = of_fields(step(*given))
        parts = graph.get_operations()[:before], graph.get_operations()[before:]
        made = {id(t) for op in parts[1] for t in op.outputs} | {*map(id, tf.nest.flatten(given))}
        captured = {id(inner): outer for outer, inner in graph.captures}
        made -= captured.keys()  # what stands for a tensor from outside
        read = {id(t): t for op in parts[1] for t in op.inputs if id(t) not in made}
        read = [captured.get(number, tensor) for number, tensor in read.items()]
        weights = tf.nest.map_structure(
            lambda w: tf.TensorSpec(w.shape, w.dtype), [list(cell.input_weights()), given[2]]
        )
        found.append((fields, read, _why_not_in_loops(cell, graph, *parts, read), weights))

    # Traced, not run: if a function builds the layer, its weights have no values yet.
    widths = (cell.input_width(), *cell.state_widths())
    rows = [tf.TensorSpec((1, width), cell.state_dtype) for width in widths]
    with tf.init_scope(), training_in_calls(True):  # a layer in the step may then draw numbers
        tf.function(traced, autograph=False).get_concrete_function(rows[0], rows[1:])
        fields, read, reason, weights = found[-1]  # a step that builds something is traced twice
        own = [w for w in cell.own_weights().values() if w.trainable]
        lost = [w.name for w in own if _is_among(w, read)]
        if not reason and not lost:
            reason = _other_results(cell, equations, step, widths, weights)
    return Tried(fields, lost, reason)


LARGEST = 1 << 26  # numbers in the weights with which a step is tried: a file may claim any size
_PURE = ("Assert", "CheckNumerics", "DebugNumeric", "DebugIdentity")  # but TensorFlow denies it
_LOOPS = ("While", "StatelessWhile")


def _why_not_in_loops(cell, graph, project, step, read):
    """Returns why the loops cannot run a cell's equations, or None.

    Args:
        graph: The graph that holds them.
        project, step: The operations of `project` and of `step`.
        read: The tensors that the step reads, besides its arguments.
    """
    name = type(cell).__name__
    if read:
        known = (w.name for w in cell.weights if _is_among(w, read[:1]))
        which = next(map(repr, known), "a tensor or a variable")
        return f"the `step` of {name} reads {which}, which is none of its arguments"
    functions = {f.signature.name: f for f in graph.as_graph_def().library.function}
    if any(op in _LOOPS for op in _inside([op.node_def for op in step], functions)):
        return f"the `step` of {name} has a loop of its own"
    for method, operations in (("project", project), ("step", step)):
        for op in operations:
            pure = not op.op_def.is_stateful and op.type != "PyFuncStateless"
            if not pure and not op.type.startswith((*_PURE, "ReadVariableOp")):
                return (
                    f"the `{method}` of {name} has the operation {op.type}, which may do something "
                    "else when it is repeated"
                )
    return None


def _inside(nodes, functions):
    """Yields the kinds of operations, and of those in the functions that they call."""
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            for called in (value.func, *value.list.func):
                if called.name in functions:
                    yield from _inside(functions[called.name].node_def, functions)


def _is_among(weight, tensors):
    """Whether one of the tensors is the handle of a weight."""
    try:
        return any(weight.value.handle is tensor for tensor in tensors)
    except (AttributeError, ValueError):  # it has none: cast, or copied to several devices
        return False


def _other_results(cell, equations, step, widths, weights):
    """Returns why the result of a row depends on more than its arguments, as a clause, or None.

    It may depend on the rows beside it, or on whether a layer that the step calls is in training.

    Args:
        step: The function of a step.
        widths: The widths of the inputs and of the states.
        weights: The shapes and dtypes of the weights of `project`, and of those of `step`.
    """
    import tensorflow as tf

    if sum(weight.shape.num_elements() for weight in tf.nest.flatten(weights)) > LARGEST:
        return None
    name, draw = type(cell).__name__, np.random.default_rng(0)

    def made(weight):  # equal numbers would hide from a step that normalizes what it mixes
        numbers = tf.sin(tf.range(weight.shape.num_elements(), dtype="float32"))
        scale = (2 / max(weight.shape[:1].num_elements(), 1)) ** 0.5
        return tf.cast(tf.reshape(scale * numbers, weight.shape), weight.dtype)

    of_project, of_step = tf.nest.map_structure(made, weights)
    rows = [draw.normal(size=(4, width)) for width in widths]

    def last(numbers, training=False):
        x, *states = (tf.constant(of[numbers], cell.state_dtype) for of in rows)
        with training_in_calls(training):
            x = equations.project(x, tuple(of_project))
            return {field: value[-1] for field, value in step(x, states, of_step).items()}

    def differs(one, other):
        close = {"rtol": 1e-3, "atol": 1e-5, "equal_nan": True}
        return not all(np.allclose(one[field], other[field], **close) for field in one)

    try:  # not traced: a function costs more
        one, beside, trained = last([1, 0]), last([2, 3, 0]), last([1, 0], training=True)
    except Exception as error:
        return f"{name} cannot be tried with random numbers ({type(error).__name__})"
    if differs(one, beside):
        return f"{name} computes with several rows together"
    return f"{name} gives another result in training" if differs(one, trained) else None
