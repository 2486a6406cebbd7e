"""How a node that is not read is refused: by name, with what it has and the way out."""

from typing import NoReturn


class RefusedError(ValueError):
    """A node that is not read, told by name."""


class UnreadableError(Exception):
    """Why a value cannot be read; whoever knows the node or the output names it."""


def told(node):
    """Returns how messages call a node."""
    return f"the {node.op_type} node {node.name or list(node.output)!r}"


def refuse(node, what, way_out="", cause=None) -> NoReturn:
    raise RefusedError(f"from_onnx: {told(node)} {what}. {way_out}".strip()) from cause


def name_of(node):
    """Returns a layer's name after the node: without what Keras does not allow in it."""
    name = (node.name or node.output[0]).strip("/").replace("/", "_").replace("::", "_")
    return name or None


def first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
