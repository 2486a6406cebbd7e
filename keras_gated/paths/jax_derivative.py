"""The derivative of one step of a cell on JAX: written by hand, or derived. See `derivative.py`."""

import jax
from jax import numpy as jnp

from keras_gated.cells.products import number_of, products_by


class Written:
    """As `derivative.Written`: a family's own `step_gradient`."""

    def __init__(self, equations):
        self.equations = equations

    def place_of(self, name):
        """Returns the place of a field in what `step` keeps."""
        return self.equations.step_type._fields.index(name)

    def step(self, x, states, recur, keep):
        step = one_step(self.equations, x, states, recur, keep)
        return [getattr(step, name) for name in self.equations.state_names], list(step)

    def back(self, x, kept, before, recur, prepared, keep, d_after):
        """As `derivative.Written.back`; `d_after` has the derivatives by field.

        Returns:
            The derivatives with respect to the states before a step. Tensors to keep of each step,
            first the derivative with respect to its input. Derivatives to sum over the steps.
        """
        equations = self.equations
        d_after = [d_after[name] for name in equations.state_names]
        step = equations.step_type(*kept)
        d_x, d_u, d_before = equations.step_gradient(step, before, d_after, prepared[0])
        return d_before, [d_x] if equations.inputs_and_state_are_summed else [d_x, d_u], []

    def by_weights(self, recur, by_step, sums, before):
        """Returns the derivatives with respect to the weights, from the results of all steps."""
        d_u = by_step[-1]
        return [before[0].T @ d_u, *(jnp.sum(d_u, 0) for _ in recur[1:])]


class Derived:
    """As `derivative.Derived`: JAX differentiates one `step`, whose products are read or noted."""

    def __init__(self, equations, names):
        self.equations, self._names, self._products = equations, names, []

    place_of = property(lambda self: self._names.index)

    def step(self, x, states, recur, keep):
        products = []

        def noted(vectors, matrix):
            made = vectors @ matrix
            if number_of(matrix, recur) is not None:
                products.append(made)
            return made

        with products_by(noted):
            step = one_step(self.equations, x, states, recur, keep)
        values = [getattr(step, name) for name in self._names]
        return values[: len(states)], [*values, *products]

    def back(self, x, kept, before, recur, prepared, keep, d_after):
        values = kept[len(self._names) :]
        self._products = met = []  # of each: the number of its matrix, and that of a state, or None

        def derived(x, before, recur, probes):
            vectors_met, met[:] = [], []

            def recalled(vectors, matrix):
                number = number_of(matrix, recur)
                if number is None:
                    return vectors @ matrix
                place, state = len(met), number_of(vectors, before)
                met.append((number, state))
                vectors_met.extend([vectors] if state is None else [])
                return _recalled(vectors, values[place], prepared[number]) + probes[place]

            with products_by(recalled):
                step = one_step(self.equations, x, before, recur, keep)
            return [getattr(step, name) for name in self._names], vectors_met

        probes = [jnp.zeros_like(value) for value in values]
        _, pull, vectors = jax.vjp(derived, x, before, tuple(recur), probes, has_aux=True)
        d_x, d_before, d_recur, d_products = pull([d_after[name] for name in self._names])
        return d_before, [d_x, *d_products, *vectors], list(d_recur)

    def by_weights(self, recur, by_step, sums, before):
        found, number = list(sums), len(self._products)
        vectors = iter(by_step[1 + number :])
        for (matrix, state), d in zip(self._products, by_step[1 : 1 + number], strict=True):
            v = next(vectors) if state is None else before[state]
            found[matrix] += v.T @ d
        return found


@jax.custom_vjp
def _recalled(vectors, value, transposed):
    """Returns a product that was kept, with its derivative with respect to the vectors."""
    return value


_recalled.defvjp(
    lambda vectors, value, transposed: (value, transposed),
    lambda transposed, d: (d @ transposed, None, None),
)


def one_step(equations, x, states, recur, keep):
    """Returns a step. Some functions of Keras turn float64 into float32 on JAX."""
    return equations.step_type(
        *(value.astype(x.dtype) for value in equations.step(x, states, recur, *keep))
    )
