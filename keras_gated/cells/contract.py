"""Checks of what a cell class states: when a cell is made, and when its layer is built."""

import contextlib
import numbers

import keras
from keras import ops

from keras_gated.cells.arguments import rate


def check_class(cls, owner):
    """Raises an error unless a class names its gates and states."""
    if not cls.gates:
        raise ValueError(
            f"{owner}: a cell names its gates, in the order of the kernel's columns. Received: "
            f"{cls.__name__}.gates = {cls.gates!r}. For example: gates = ('update', 'candidate')."
        )
    if cls.state_names[:1] != ("hidden",):
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
    return kind(**given)


def check_step(cell, equations):
    """Runs one step of a cell that has just been built, to find mistakes in its class.

    Args:
        cell: A built cell.
        equations: The `Equations` of the cell.

    Raises:
        ValueError: If `step` reads a weight that is not among its arguments, or returns other
            fields than the class states, or fields of other widths.
    """
    name = type(cell).__name__
    try:
        step, read = _one_step(cell, equations)
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
    if read:
        raise ValueError(
            f"{cell.owner}: the `step` of {name} reads the weights {read} of the cell itself, so "
            "that their gradient would be lost. State them in `weight_shapes`, or return them "
            "from `recurrent_weights`, and take them from its argument `weights`."
        )
    for field, shape in step.items():
        expected = (1, cell.width_of(field))
        if shape != expected:
            raise ValueError(
                f"{cell.owner}: the `step` of {name} must return {field!r} of shape (batch, "
                f"{expected[1]}). Received: shape {shape} for a batch of 1. `state_widths` states "
                "the widths of states other than `units`."
            )


def _one_step(cell, equations):
    """Returns the shapes of a step's fields, and the names of the weights that it reads."""
    if keras.backend.backend() != "tensorflow":
        return _shapes(cell, equations, contextlib.nullcontext()), []  # no gradient can be lost
    import tensorflow as tf

    found, read = [], []
    # Traced, not run: if a function builds the layer, its weights have no values yet.
    with tf.init_scope():
        tf.function(
            lambda: found.append(_shapes(cell, equations, _watched(cell, read))), autograph=False
        ).get_concrete_function()
    return found[0], read


def _shapes(cell, equations, watched):
    x = ops.zeros((1, cell.kernel.shape[0]), cell.state_dtype)
    # Copies: Keras's `convert_to_tensor` returns a variable of TensorFlow unchanged.
    weights = [ops.copy(w) for w in cell.recurrent_weights()]
    x, states = equations.project(x, cell.input_weights()), cell.get_initial_state(1)
    with watched:
        step = by_name(cell, equations.step(x, states, tuple(weights)))
    return {field: tuple(value.shape) for field, value in step._asdict().items()}


@contextlib.contextmanager
def _watched(cell, read):
    """Adds to `read` the names of the cell's weights that operations inside read."""
    import tensorflow as tf

    graph = tf.compat.v1.get_default_graph()
    before = len(graph.get_operations())
    yield
    inputs = [i for op in graph.get_operations()[before:] for i in op.inputs]
    handles = [outer for outer, inner in graph.captures if any(i is inner for i in inputs)]
    read += [w.name for w in cell.weights if any(w.value.handle is h for h in handles)]


def _class_of(cell):
    return getattr(cell, "owner", None) or type(cell).__name__
