"""The values of the names in a graph. A value is computed when it is asked for."""

from keras_gated.convert.onnx import load
from keras_gated.convert.onnx.refusals import refuse


class Scope:
    """A graph of ONNX, or the graph of a branch inside another.

    Args:
        graph: The graph.
        source: The name of its file in messages.
        opset: The version of ONNX's operators that its nodes are of.
        run: Runs a node: takes the node, its inputs and the scope, and returns a list.
        values: The values of its inputs, by name.
        outer: The scope of the graph around it.
    """

    def __init__(self, graph, source, opset, run, values=(), outer=None):
        self.source, self.opset, self.outer = source, opset, outer
        self._run = run
        self._values = {"": None, **dict(values)}
        self._constants = {t.name: t for t in graph.initializer if t.name not in self._values}
        self._made_by = {name: node for node in graph.node for name in node.output if name}

    def inside(self, graph, values=()):
        """Returns the scope of a graph inside this one."""
        return Scope(graph, self.source, self.opset, self._run, values, outer=self)

    def value(self, name):
        """Returns the value of a name. Only the nodes that it needs are run."""
        wanted = [name]
        while wanted:
            name = wanted[-1]
            if name in self._values:
                wanted.pop()
            elif name in self._constants:
                self._values[name] = load.array_of(self._constants[name], self.source)
            elif name in self._made_by:
                node = self._made_by[name]
                missing = [n for n in node.input if n not in self._values]
                if missing:
                    wanted += missing
                else:
                    self._make(node, name)
            else:
                self._values[name] = self.outer.value(name)
        return self._values[name]

    def _make(self, node, name):
        results = self._run(node, [self._values[n] for n in node.input], self)
        self._values.update((n, r) for n, r in zip(node.output, results, strict=False) if n)
        if name not in self._values:
            refuse(node, f"makes no output {name!r} here", "Known: the first of its outputs.")
