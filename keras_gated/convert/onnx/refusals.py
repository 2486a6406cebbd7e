"""Errors for nodes that cannot be read. They name the node, the reason and the way out."""

from typing import NoReturn


class RefusedError(ValueError):
    """A node cannot be read. The message names it."""


class UnreadableError(Exception):
    """A value cannot be read. The message says why; the caller adds the node or the output."""


def told(node):
    """Returns a node's name in messages."""
    return f"the {node.op_type} node {node.name or list(node.output)!r}"


def refuse(node, what, way_out="", cause=None) -> NoReturn:
    raise RefusedError(f"from_onnx: {told(node)} {what}. {way_out}".strip()) from cause


def name_of(node):
    """Returns a layer's name made of the node's, without characters that Keras does not allow."""
    name = (node.name or node.output[0]).strip("/").replace("/", "_").replace("::", "_")
    return name or None


def first_line(error):
    lines = [line for line in map(str.strip, str(error).splitlines()) if line]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        del lines[0]  # Keras names the layer first, and then the reason
    return lines[0][:200] if lines else type(error).__name__
