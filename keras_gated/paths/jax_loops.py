"""The loops where Keras runs on JAX, with back-propagation through time by hand.

As in `compiled.py`, the derivative with respect to each matrix is one product for all steps. The
loop forwards makes the input product step by step: one large product is faster, but JAX then loses
more time with writing it to memory and reading it again.

With a mask, groups of rows run one after the other (`jax_packing.py`), each for as many steps as
its longest row has. So most masked steps cost nothing, and JAX compiles one loop for all groups.
"""

import functools

import jax
import keras
from jax import lax
from jax import numpy as jnp

from keras_gated.cells.equations import equations_of
from keras_gated.paths.jax_derivative import Derived, Written, one_step
from keras_gated.paths.jax_packing import Packing, number_of_groups
from keras_gated.paths.path import Results, last_output, why_cells_loop


def why_not(call):
    """As in `Path`."""
    if reason := why_cells_loop(call):
        return reason
    if not equations_of(call.cell).zero_is_safe:
        name = type(call.cell).__name__
        return f"on JAX the loop runs only equations of this package, and {name} has other ones"
    if not all(isinstance(size, int) and size for size in call.sequences.shape[:2]):
        return "the batch is empty, or its sizes are not numbers"
    return None


def run(call):
    """As in `Path`. Outputs, states and gradients equal those of Keras's loop."""
    cell, masks, layer = call.cell, call.masks, call.layer
    x = jnp.asarray(call.sequences, cell.state_dtype)
    if masks.zones is not None:
        x = jnp.concatenate([x, masks.zones], -1)
    equations = equations_of(cell, masks.zones is not None)
    options = (
        call.fields,
        layer.go_backwards,
        call.outputs_reversed,
        layer.zero_output_for_mask,
        # Rows would move between devices.
        keras.distribution.distribution() is None,
    )
    key = (_run, *options)
    if key not in equations.functions:
        equations.functions[key] = jax.jit(functools.partial(_run, equations, *options))
    keep = () if masks.hidden is None else (masks.hidden,)
    weights = cell.input_weights(), cell.recurrent_weights(masks.kernel)
    return Results(*equations.functions[key](x, list(call.states), call.mask, *weights, keep))


def _run(
    equations, fields, go_backwards, outputs_reversed, zero_masked_outputs, sorts,
    x, states, mask, project, recur, keep,
):  # fmt: skip
    loops = _Loops(equations, fields)
    if mask is None:
        steps = jnp.transpose(x, (1, 0, 2))
        steps = jnp.flip(steps, 0) if go_backwards else steps
        group, lengths = jax.tree.map(lambda value: value[None], (steps, states, keep)), None
    else:
        packing = Packing(mask, go_backwards, number_of_groups(*states[0].shape) if sorts else 1)
        group = packing.packed(x), *([packing.sorted(s) for s in of] for of in (states, keep))
        lengths = packing.lengths
    of_fields, finals = loops.run(*group, lengths, project, recur)
    if mask is None:
        of_fields = [jnp.transpose(field[0], (1, 0, 2)) for field in of_fields]
        finals, turn = [state[0] for state in finals], go_backwards and not outputs_reversed
    else:
        of_fields = [packing.unpacked(field, zero_masked_outputs) for field in of_fields]
        finals, turn = [packing.unsorted(state) for state in finals], outputs_reversed
    of_fields = [jnp.flip(field, 1) for field in of_fields] if turn else of_fields
    return last_output(x, mask, go_backwards, zero_masked_outputs, finals[0]), of_fields, finals


class _Loops:
    """The loops over the steps of a group of rows.

    Args:
        equations: `Equations`.
        fields: Names of the gates and states wanted of every step.
    """

    def __init__(self, equations, fields):
        self.equations, self._fields = equations, fields
        self._names = list(dict.fromkeys([*equations.state_names, *fields]))

    def run(self, x, states, keep, lengths, project, recur):
        """Runs all steps.

        Args:
            x: The steps, `(groups, time, rows, features)`.
            states: Before the first step, each `(groups, rows, width)`.
            keep: The mask of recurrent dropout, `(groups, rows, width)`, if there is one.
            lengths: Steps of each row, `(groups, rows)`, or None: all rows have all steps.
            project: The cell's `input_weights`.
            recur: The cell's `recurrent_weights`.

        Returns:
            The fields, each `(groups, time, rows, width)`, and the final states. Slots without a
            step hold anything.
        """
        floats = x, list(states), tuple(project), tuple(recur)
        rest = list(keep), lengths
        if lengths is None and not self._is_written(keep):
            # There is no step to leave out, and a derived step costs more than the products gain.
            return self._step_by_step(floats, rest)

        # Three functions, so that a derivative can be differentiated, too.
        @jax.custom_vjp
        def through_time(floats, rest):
            return self._forwards(self._fields_of, floats, rest)

        @jax.custom_vjp
        def saving(floats, rest):
            rule = self._rule(rest)
            kept, finals = self._forwards(rule.step, floats, rest)
            return ([kept[rule.place_of(name)] for name in self._fields], finals), kept

        @jax.custom_vjp
        def derivative(floats, rest, kept, d_results):
            return self._backwards(self._rule(rest), floats, rest, kept, d_results)

        def first_forwards(floats, rest):
            results, kept = saving(floats, rest)
            return results, (floats, rest, kept)

        def first_backwards(given, d_results):
            return derivative(*given, d_results), None

        def saving_forwards(floats, rest):
            results, kept = saving(floats, rest)
            return (results, kept), (floats, rest, kept)

        def saving_backwards(given, d):
            return derivative(*given, d[0]), None

        def second_forwards(floats, rest, kept, d_results):
            return derivative(floats, rest, kept, d_results), (floats, rest, d_results)

        def second_backwards(given, dd):
            floats, rest, d_results = given

            def first(floats, d_results):
                return jax.vjp(lambda of: self._step_by_step(of, rest), floats)[1](d_results)[0]

            d_floats, dd_results = jax.vjp(first, floats, d_results)[1](dd)
            return d_floats, None, None, dd_results

        through_time.defvjp(first_forwards, first_backwards)
        saving.defvjp(saving_forwards, saving_backwards)
        derivative.defvjp(second_forwards, second_backwards)
        return through_time(floats, rest)

    def _rule(self, rest):
        if self._is_written(rest[0]):
            return Written(self.equations)
        return Derived(self.equations, self._names)

    def _is_written(self, keep):
        equations = self.equations
        return equations.written and not keep and {*self._fields} <= {*equations.state_names}

    def _fields_of(self, x, states, recur, keep):
        step = one_step(self.equations, x, states, recur, keep)
        after, fields = (
            [getattr(step, name) for name in names]
            for names in (self.equations.state_names, self._fields)
        )
        return after, fields

    def _forwards(self, step, floats, rest):
        """Returns what is kept of every step, and the final states, as `run` returns its fields."""
        x, states, project, recur = floats
        return _for_each_group(
            lambda group: self._group_forwards(step, project, recur, *group), (x, states, *rest)
        )

    def _group_forwards(self, step, project, recur, x, states, keep, lengths):
        def body(t, carried):
            states, arrays = carried
            after, kept = step(self.equations.project(x[t], project), states, recur, keep)
            if lengths is not None:
                after = _where(t < lengths, after, states)
            return after, _written_at(t, arrays, kept)

        _, kept = jax.eval_shape(
            lambda x, *rest: step(self.equations.project(x, project), *rest),
            *(x[0], states, recur, keep),
        )
        states, arrays = lax.fori_loop(0, _steps(x, lengths), body, (states, _arrays(x, kept)))
        return arrays, states

    def _backwards(self, rule, floats, rest, kept, d_results):
        """Returns the derivatives with respect to `floats`."""
        x, states, project, recur = floats
        *of_rows, d_project, d_recur = _for_each_group(
            lambda group: self._group_backwards(rule, project, recur, *group),
            (x, states, *rest, kept, *d_results),
        )
        return *of_rows, *jax.tree.map(lambda d: jnp.sum(d, 0), (d_project, d_recur))

    def _group_backwards(
        self, rule, project, recur, x, states, keep, lengths, kept, d_fields, d_states
    ):
        d_fields = dict(zip(self._fields, d_fields, strict=True))
        names, prepared = self.equations.state_names, [jnp.transpose(w) for w in recur]
        places, steps = [rule.place_of(name) for name in names], _steps(x, lengths)

        def back(t, d_states):
            earlier = [kept[place][jnp.maximum(t - 1, 0)] for place in places]
            before = [jnp.where(t > 0, e, s) for e, s in zip(earlier, states, strict=True)]
            d_after = {name: d[t] for name, d in d_fields.items()}
            for name, d in zip(names, d_states, strict=True):
                d_after[name] = d_after.get(name, 0) + d
            if lengths is not None:
                valid = t < lengths
                d_after = {n: jnp.where(valid[:, None], d, 0) for n, d in d_after.items()}
            xs, saved = self.equations.project(x[t], project), [k[t] for k in kept]
            d_before, by_step, sums = rule.back(xs, saved, before, recur, prepared, keep, d_after)
            if lengths is not None:
                d_before = _where(valid, d_before, d_states)
                by_step = [jnp.where(valid[:, None], b, 0) for b in by_step]
            return d_before, by_step, sums

        def body(turn, carried):
            d_states, arrays, sums = carried
            t = steps - 1 - turn
            d_states, by_step, more = back(t, d_states)
            sums = [s + m for s, m in zip(sums, more, strict=True)]
            return d_states, _written_at(t, arrays, by_step), sums

        _, by_step, sums = jax.eval_shape(lambda d_states: back(0, d_states), list(d_states))
        sums = [jnp.zeros(s.shape, s.dtype) for s in sums]
        d_states, arrays, sums = lax.fori_loop(
            0, steps, body, (list(d_states), _arrays(x, by_step), sums)
        )
        before = [
            jnp.concatenate([s[None], kept[place][:-1]])
            for s, place in zip(states, places, strict=True)
        ]
        flat = [a.reshape(-1, a.shape[-1]) for a in (*arrays, *before)]
        d_recur = rule.by_weights(recur, flat[: len(arrays)], sums, flat[len(arrays) :])
        _, project_back = jax.vjp(self.equations.project, x, project)
        d_x, d_project = project_back(arrays[0])
        return d_x, d_states, d_project, tuple(d_recur)

    def _step_by_step(self, floats, rest):
        """As `run`, in a loop that JAX differentiates. It runs all steps; any derivative exists."""
        x, states, project, recur = floats

        def of_group(group):
            x, states, keep, lengths = group

            def body(states, given):
                t, x = given
                x = self.equations.project(x, project)
                after, fields = self._fields_of(x, states, recur, keep)
                return after if lengths is None else _where(t < lengths, after, states), fields

            finals, fields = lax.scan(body, states, (jnp.arange(len(x)), x))
            return fields, finals

        return _for_each_group(of_group, (x, states, *rest))


def _for_each_group(function, groups):
    """Returns the results of a function for each group, stacked."""
    if len(jax.tree.leaves(groups)[0]) > 1:
        return lax.map(function, groups)
    results = function(jax.tree.map(lambda value: value[0], groups))
    return jax.tree.map(lambda value: value[None], results)


def _steps(x, lengths):
    """Returns the number of steps to run: those of the longest row."""
    return len(x) if lengths is None else jnp.max(lengths)


def _arrays(x, like):
    return [jnp.zeros((*x.shape[:2], one.shape[-1]), one.dtype) for one in like]


def _written_at(t, arrays, values):
    return [
        lax.dynamic_update_slice(array, value[None], (t, 0, 0))
        for array, value in zip(arrays, values, strict=True)
    ]


def _where(valid, chosen, otherwise):
    return [jnp.where(valid[:, None], a, b) for a, b in zip(chosen, otherwise, strict=True)]
