"""The nodes of a model's config that Keras 2 wrote: which tensors a layer is called with."""

from keras_gated.convert.keras_checks import RefusedError


def _is_reference(value, layers):
    """Whether this names a tensor: a layer, the number of its call, the number of the result."""
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and value[0] in layers
        and all(type(number) is int for number in value[1:3])
    )


def references(value, layers):
    """Yields the names of tensors (`_is_reference`) in the arguments of a call."""
    if _is_reference(value, layers):
        yield value
        value = value[3:]
    if isinstance(value, dict):
        value = list(value.values())
    for part in value if isinstance(value, list) else ():
        yield from references(part, layers)


def with_tensors(value, layers, tensor):
    """Returns the arguments of a call with tensors in the place of their names."""
    if _is_reference(value, layers):
        return tensor(value)
    if isinstance(value, dict):
        return {name: with_tensors(part, layers, tensor) for name, part in value.items()}
    if isinstance(value, list):
        if value[:1] == ["_CONSTANT_VALUE"]:
            raise RefusedError(
                "a layer is called with a constant, which Keras 3 does not save. Make it a layer "
                "of its own in Keras 2, and save the model again."
            )
        return [with_tensors(part, layers, tensor) for part in value]
    return value


def one_of(values):
    """Returns the tensor of a list that holds a single one, and anything else as it is."""
    return values[0] if isinstance(values, list) and len(values) == 1 else values


def further_arguments(node):
    """Yields the further arguments that stand beside the tensors of a node."""
    if isinstance(node, list) and len(node) == 4 and isinstance(node[3], dict):
        yield node[3]
    elif isinstance(node, (list, dict)):
        for part in node.values() if isinstance(node, dict) else node:
            yield from further_arguments(part)
