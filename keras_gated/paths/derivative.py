"""The derivative of one step of a cell, for the compiled loops: written by hand, or derived.

A rule runs one step forwards and says what to keep of it (`step`). It runs one step backwards
(`back`). After the loop, it computes the derivative with respect to each matrix, with one product
for all steps of a chunk (`by_weights`).
"""

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gated.cells.products import number_of, products_by
from keras_gated.paths.gradients import custom_gradient


class Plan(NamedTuple):
    """What a rule keeps of a step, and what it returns of the step's derivative."""

    kept: list  # widths of the kept tensors: fields, or states and products
    # Widths of what `back` returns of each step: the derivatives with respect to the input and to
    # the products, and the vectors of the products.
    by_step: list
    products: list  # of each product: index of its matrix, places of its derivative and vectors
    direct: list  # indices of the weights that a step reads without `product`
    states: list  # indices of the states that a product multiplies unchanged


class Undifferentiated:
    """The rule without a derivative. It keeps only the wanted fields of every step."""

    places, reads_ahead = (), True

    def __init__(self, equations, fields):
        self.equations, self._fields = equations, fields

    def plan(self, x, recur):
        return Plan([self.equations.widths[name] for name in self._fields], [], [], [], [])

    def step(self, x, states, recur, keep):
        step = self.equations.step(x, states, recur, *keep)
        after, kept = (
            [getattr(step, name) for name in names]
            for names in (self.equations.state_names, self._fields)
        )
        return after, kept


class Written:
    """The rule that uses the `step_gradient` of a family, where it is the derivative of `step`."""

    reads_inputs = False  # whether `back` needs the inputs of the step
    reads_ahead = False  # whether the loop forwards reads the inputs one step ahead

    def __init__(self, equations):
        self.equations, fields = equations, equations.step_type._fields
        self.places = [fields.index(name) for name in equations.state_names]  # in `kept`

    def plan(self, x, recur):
        """Returns the `Plan` for inputs `(slots, width)` and weights of a step."""
        equations = self.equations
        sums = 1 if equations.inputs_and_state_are_summed else 2
        kept = list(equations.widths.values())
        return Plan(kept, [equations.width] * sums, [(0, sums - 1, 0)], [], [0])

    def step(self, x, states, recur, keep):
        """Returns the states after a step, and the tensors to keep, which include these states."""
        step = self.equations.step(x, states, recur, *keep)
        return [getattr(step, name) for name in self.equations.state_names], list(step)

    def prepared(self, recur):
        """Returns what `back` needs of the weights, made once for all steps."""
        return [tf.transpose(recur[0])]

    def back(self, x, kept, before, recur, prepared, keep, d_after):
        """Returns the derivatives with respect to the states before a step, the tensors `by_step`
        of the `Plan`, and the derivatives to be summed over the steps."""
        step = self.equations.step_type(*kept)
        d_x, d_u, d_before = self.equations.step_gradient(step, before, d_after, prepared[0])
        return d_before, [d_x] if self.equations.inputs_and_state_are_summed else [d_x, d_u], []

    def by_weights(self, x, recur, by_step, sums, before):
        """Returns the derivatives with respect to the weights, from the results of the steps."""
        d_u = by_step[-1]
        d_U = tf.matmul(before[0], d_u, transpose_a=True)
        return [d_U, *(tf.reduce_sum(d_u, 0) for _ in recur[1:])]


class Derived:
    """The rule that lets TensorFlow differentiate one `step`, whatever it computes.

    Forwards, the products of a step are kept. Backwards, each product is read instead of computed,
    and its derivative is noted. The derivative with respect to a matrix is not computed at single
    steps. For other weights it is computed at each step, and the loop sums the results.

    Args:
        equations: `Equations`.
        drops: Whether recurrent dropout acts on the products.
    """

    reads_inputs, reads_ahead = True, False

    def __init__(self, equations, drops):
        self.equations, self._drops = equations, drops
        self.places = list(range(len(equations.state_names)))

    def step(self, x, states, recur, keep):
        products, known = [], _known_products()

        def noted(vectors, matrix):
            made = tf.matmul(vectors, matrix)
            if known(vectors, matrix, recur) is not None:
                products.append(made)
            return made

        with products_by(noted):
            step = self.equations.step(x, states, recur, *keep)
        after = [getattr(step, name) for name in self.equations.state_names]
        return after, [*after, *products]

    def prepared(self, recur):
        return [tf.transpose(w) if w.shape.rank == 2 else w for w in recur]

    def back(self, x, kept, before, recur, prepared, keep, d_after):
        plan = self.plan(x, recur)
        d_x, d_before, d_recur, met, d_products = self._derived(
            x, kept, before, recur, prepared, keep, d_after
        )
        by_step = [d_x] + [None] * (len(plan.by_step) - 1)
        for (_, place, of_vectors), (_, vectors, _), d in zip(
            plan.products, met, d_products, strict=True
        ):
            by_step[place] = d if place else d_x
            if isinstance(of_vectors, tuple):
                by_step[of_vectors[1]] = vectors
        return d_before, by_step, [tf.convert_to_tensor(d_recur[n]) for n in plan.direct]

    def _derived(self, x, kept, before, recur, prepared, keep, d_after):
        saved, met, known = iter(kept[len(before) :]), [], _known_products()
        own = [tf.identity(w) for w in recur]  # copies in the graph of this step

        def recalled(vectors, matrix):
            number = known(vectors, matrix, own)
            if number is None:
                return tf.matmul(vectors, matrix)
            value = next(saved)
            probe = tf.zeros_like(value)
            met.append((number, vectors, probe))
            return _recalled(value, prepared[number], vectors) + probe

        with products_by(recalled):
            step = self.equations.step(x, before, own, *keep)
        after = [getattr(step, name) for name in self.equations.state_names]
        # Not a tape: no tape records while TensorFlow builds a derivative.
        sources = [x, *before, *own, *(probe for *_, probe in met)]
        found = iter(tf.gradients(after, sources, list(d_after)))
        d_x, *d_before = (next(found) for _ in range(1 + len(before)))
        d_recur, d_products = [next(found) for _ in own], list(found)
        d_before = [_or_zeros(d, b) for d, b in zip(d_before, before, strict=True)]
        d_products = [_or_zeros(d, p) for d, (*_, p) in zip(d_products, met, strict=True)]
        return _or_zeros(d_x, x), d_before, d_recur, met, d_products

    def by_weights(self, x, recur, by_step, sums, before):
        plan = self.plan(x, recur)
        found = [tf.zeros_like(w) for w in recur]
        for number, d in zip(plan.direct, sums, strict=True):
            found[number] += d
        for number, own, vectors in plan.products:
            v = (
                by_step[vectors[1]]
                if isinstance(vectors, tuple)
                else before[plan.states.index(vectors)]
            )
            found[number] += tf.matmul(v, by_step[own], transpose_a=True)
        return found

    def plan(self, x, recur):
        """Returns the `Plan`, found by differentiating one step in a separate graph."""
        key = (Plan, self._drops, x.shape[-1], tuple(tuple(w.shape) for w in recur), x.dtype)
        return self.equations.once(key, lambda: self._traced_plan(x, recur))

    def _traced_plan(self, x, recur):
        found, widths = [], [x.shape[-1], *self.equations.state_widths]
        rows = [tf.TensorSpec([8, width], x.dtype) for width in widths]
        weights = [tf.TensorSpec(w.shape, x.dtype) for w in recur]
        trace = tf.function(lambda *given: found.append(self._planned(*given)), autograph=False)
        with tf.init_scope():
            trace.get_concrete_function(rows[0], rows[1:], weights)
        return found[0]

    def _planned(self, x, states, recur):
        keep = [tf.zeros_like(states[0])] if self._drops else []
        after, kept = self.step(x, states, recur, keep)
        d_x, _, d_recur, met, d_products = self._derived(
            x, kept, states, recur, self.prepared(recur), keep, after
        )
        by_step, products = [d_x], []
        for (number, vectors, _), d in zip(met, d_products, strict=True):
            place = next((n for n, other in enumerate(by_step) if other is d), None)
            if place is None:  # else: a product added to the input shares its derivative
                place, by_step = len(by_step), [*by_step, d]
            state = number_of(vectors, states)
            if state is None:
                state, by_step = ("vectors", len(by_step)), [*by_step, vectors]
            products.append((number, place, state))
        return Plan(
            [k.shape[-1] for k in kept],
            [d.shape[-1] for d in by_step],
            products,
            [n for n, d in enumerate(d_recur) if d is not None],
            sorted({s for *_, s in products if isinstance(s, int)}),
        )


def rule_of(equations, drops):
    """Returns the rule of these equations: `Written` where that is right, else `Derived`."""
    written = equations.written and not drops  # `step_gradient` knows no mask
    return equations.once(
        (rule_of, drops), lambda: Written(equations) if written else Derived(equations, drops)
    )


def without_derivative(equations, fields):
    """Returns the rule for a run whose derivative is not taken."""
    key = (Undifferentiated, fields)
    return equations.once(key, lambda: Undifferentiated(equations, fields))


def _known_products():
    """Returns a function that returns the index of a product's matrix in a list of weights.

    It returns None, and TensorFlow derives the product, if the matrix is not in the list, if the
    vectors are not one for each row, or if the product is not made at every step: in a branch.
    """
    graph = tf.compat.v1.get_default_graph()

    def known(vectors, matrix, weights):
        at_every_step = tf.compat.v1.get_default_graph() is graph
        return number_of(matrix, weights) if at_every_step and vectors.shape.rank == 2 else None

    return known


def _or_zeros(derivative, like):
    return tf.zeros_like(like) if derivative is None else tf.convert_to_tensor(derivative)


def _recalled(value, transposed, vectors):
    """Returns a product that was kept, with its derivative with respect to the vectors."""

    @custom_gradient
    def recall(vectors):
        return tf.identity(value), functools.partial(_by_vectors, transposed)

    return recall(vectors)


def _by_vectors(transposed, d) -> Any:
    return tf.matmul(d, transposed)
