"""The loops where Keras runs on JAX, with back-propagation through time by hand.

As in `compiled.py`, the derivative with respect to each matrix is one product for all steps. The
loop forwards makes the input product step by step: one large product is faster, but JAX then loses
more time with writing it to memory and reading it again.

On JAX every size is known. With a mask, the valid steps of each row move to its start, and rows are
sorted by length into groups of one size. The groups run one after the other, each for as many steps
as its longest row has. So most masked steps cost nothing, and JAX compiles one loop for all groups.
"""

import functools

import jax
import keras
from jax import lax
from jax import numpy as jnp

from keras_gated.cells.equations import equations_of
from keras_gated.cells.products import products_by
from keras_gated.paths.path import Results, last_output, why_cells_loop

GROUPS = 4, 3, 2  # numbers of groups to try
# A group has at least so many rows, and a state of it so many numbers. (Measured on two cores.)
ROWS_WORTH_A_GROUP, NUMBERS_WORTH_A_GROUP = 8, 2048


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
        packing = _Packing(mask, go_backwards, _groups(*states[0].shape) if sorts else 1)
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


def _groups(batch, units):
    """Returns the number of groups of a batch: equally large ones that are large enough."""
    fewest = max(ROWS_WORTH_A_GROUP, NUMBERS_WORTH_A_GROUP // units)
    return next((n for n in GROUPS if batch % n == 0 and batch // n >= fewest), 1)


class _Packing:
    """Where the valid steps lie while the loop runs: in slots `(groups, time, rows)`."""

    def __init__(self, mask, go_backwards, groups):
        self.mask, (batch, time) = mask, mask.shape
        self._shape = groups, time, batch // groups
        counts = mask.astype("int32")
        # For each step: how many valid steps have been read, with this step.
        read = lax.cumsum(counts, axis=1, reverse=go_backwards)
        lengths, numbers = jnp.sum(counts, 1), jnp.arange(batch)
        order = numbers if groups == 1 else jnp.argsort(-lengths)
        self._order, self._place = order, jnp.zeros_like(order).at[order].set(numbers)
        self.lengths = self._grouped(lengths[order])
        step = jnp.zeros((batch, time), "int32")
        step = step.at[numbers[:, None], jnp.where(mask, read - 1, time)].set(
            jnp.arange(time, dtype="int32"), mode="drop"
        )
        step = self._grouped(order[:, None] * time + step[order])
        self._step = jnp.swapaxes(step, 1, 2).reshape(-1)  # of every slot
        used = jnp.arange(time)[:, None] < self.lengths[:, None]
        self._used = used.reshape(-1)  # of every slot
        group, row = jnp.divmod(self._place[:, None], self._shape[2])
        slot = (group * time + jnp.maximum(read - 1, 0)) * self._shape[2] + row
        self._slot = slot.reshape(-1)  # read last, of every step
        self._read = (read > 0).reshape(-1)

    def packed(self, x):
        """Returns the steps of `(batch, time, features)` in their slots; the others are zeros."""
        steps = x.reshape(-1, x.shape[-1])
        slots = _moved(steps, self._step, self._used, self._slot, self.mask.reshape(-1))
        return slots.reshape(*self._shape, -1)

    def unpacked(self, slots, zero_masked_outputs):
        """Returns what is in the slots, `(batch, time, width)`."""
        slots = slots.reshape(-1, slots.shape[-1])
        if zero_masked_outputs:
            steps = _moved(slots, self._slot, self.mask.reshape(-1), self._step, self._used)
        else:
            steps = jnp.where(self._read[:, None], slots[self._slot], 0)
        return steps.reshape(*self.mask.shape, -1)

    def sorted(self, rows):
        every = jnp.ones(self._order.shape, bool)
        return self._grouped(_moved(rows, self._order, every, self._place, every))

    def unsorted(self, rows):
        every = jnp.ones(self._order.shape, bool)
        rows = rows.reshape(-1, rows.shape[-1])
        return _moved(rows, self._place, every, self._order, every)

    def _grouped(self, rows):
        return rows.reshape(self._shape[0], self._shape[2], *rows.shape[1:])


@jax.custom_vjp
def _moved(values, index, valid, inverse, used):
    """Gathers rows; zeros where `valid` is False. No row is taken twice.

    So the derivative is a gather, too: `inverse` is the place of every row that is `used`.
    """
    return jnp.where(valid[:, None], values[index], 0)


_moved.defvjp(
    lambda values, index, valid, inverse, used: (
        _moved(values, index, valid, inverse, used),
        (index, valid, inverse, used),
    ),
    lambda to, d: (_moved(d, to[2], to[3], to[0], to[1]), None, None, None, None),
)


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
            return _Written(self.equations)
        return _Derived(self.equations, self._names)

    def _is_written(self, keep):
        equations = self.equations
        return equations.written and not keep and {*self._fields} <= {*equations.state_names}

    def _fields_of(self, x, states, recur, keep):
        step = _step(self.equations, x, states, recur, keep)
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


class _Written:
    """As `derivative.Written`: a family's own `step_gradient`."""

    def __init__(self, equations):
        self.equations = equations

    def place_of(self, name):
        """Returns the place of a field in what `step` keeps."""
        return self.equations.step_type._fields.index(name)

    def step(self, x, states, recur, keep):
        step = _step(self.equations, x, states, recur, keep)
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


class _Derived:
    """As `derivative.Derived`: JAX differentiates one `step`, whose products are read or noted."""

    def __init__(self, equations, names):
        self.equations, self._names, self._products = equations, names, []

    place_of = property(lambda self: self._names.index)

    def step(self, x, states, recur, keep):
        products = []

        def noted(vectors, matrix):
            made = vectors @ matrix
            if _number_of(matrix, recur) is not None:
                products.append(made)
            return made

        with products_by(noted):
            step = _step(self.equations, x, states, recur, keep)
        values = [getattr(step, name) for name in self._names]
        return values[: len(states)], [*values, *products]

    def back(self, x, kept, before, recur, prepared, keep, d_after):
        values = kept[len(self._names) :]
        self._products = met = []  # of each: the number of its matrix, and that of a state, or None

        def derived(x, before, recur, probes):
            vectors_met, met[:] = [], []

            def recalled(vectors, matrix):
                number = _number_of(matrix, recur)
                if number is None:
                    return vectors @ matrix
                place, state = len(met), _number_of(vectors, before)
                met.append((number, state))
                vectors_met.extend([vectors] if state is None else [])
                return _recalled(vectors, values[place], prepared[number]) + probes[place]

            with products_by(recalled):
                step = _step(self.equations, x, before, recur, keep)
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


def _step(equations, x, states, recur, keep):
    """Returns a step. Some functions of Keras turn float64 into float32 on JAX."""
    return equations.step_type(
        *(value.astype(x.dtype) for value in equations.step(x, states, recur, *keep))
    )


def _number_of(value, values):
    """Returns the index of a value (the same object) in a list, or None."""
    return next((n for n, other in enumerate(values) if other is value), None)


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
