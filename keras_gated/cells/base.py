"""What the three cells share: weights, the input projection, dropout and the config."""

import numbers

import keras
from keras import ops

from keras_gated.cells.arguments import (
    Configurable,
    argument_names,
    boolean,
    check_axes,
    compatible,
    kind,
    number_of_rows,
    positive_integer,
    rate,
    resolve,
)
from keras_gated.cells.dropout import MasksOfACall, dropped
from keras_gated.cells.products import product

UPDATE_WRITES = "update_gate_writes"  # marks the weights of our GRU in a file: see `gru.py`
_SWITCHES = ("use_bias", "unit_forget_bias", "reset_after")


class GatedCell(Configurable, keras.layers.Layer, MasksOfACall):
    """One step of a recurrent network: the base of the three cells.

    A family states its equations in `step` and names its gates (in the order of the kernel's
    columns) and its states. The rest is here.
    """

    gates: tuple  # names, in the order of the kernel's columns
    step_type: type  # the named tuple that `step` returns
    # Whether `step` uses the input and the recurrent product only through their sum: both then have
    # the same gradient.
    inputs_and_state_are_summed = True
    state_names = ("hidden",)  # the first one is the output
    seed_before_weights = False  # whether Keras draws the seed of dropouts before initializers'

    def __init__(
        self,
        *,
        units,
        dropout,
        recurrent_dropout,
        recurrent_weight_dropout,
        seed,
        implementation=2,
        owner=None,
        **arguments,
    ):
        names = [name for name in arguments if name in self.argument_names()]
        functions = {k: arguments.pop(k) for k in names if kind(k)}
        switches = {k: arguments.pop(k) for k in names if k in _SWITCHES}
        # Half precision is a matter of what goes in and out: a step computes in float32, or the
        # state would lose what it cannot round (at 16.0 float16 counts in steps of 1/64).
        super().__init__(**{**arguments, "autocast": False})
        half = self.compute_dtype in ("float16", "bfloat16")
        self.state_dtype = "float32" if half else self.compute_dtype
        self.owner = owner = owner or type(self).__name__  # whose name errors bear: the layer's
        self.units = positive_integer(owner, "units", units)
        for name, value in switches.items():
            setattr(self, name, boolean(owner, name, value))
        self.dropout = rate(owner, "dropout", dropout)
        self.recurrent_dropout = rate(owner, "recurrent_dropout", recurrent_dropout)
        self.recurrent_weight_dropout = rate(
            owner, "recurrent_weight_dropout", recurrent_weight_dropout
        )
        if implementation not in (0, 1, 2):
            raise ValueError(
                f"{owner}: `implementation` must be 0, 1 or 2 (as in `keras.layers`; all give the "
                f"same equations here). Received: implementation={implementation!r}. Leave it out."
            )
        self.implementation = int(implementation)
        self.seed = seed
        # Seeds that nobody gives are drawn in Keras's order, so that weights start as Keras's do.
        if self.seed_before_weights:
            self.seed_generator = keras.random.SeedGenerator(seed=seed)
        for name, value in functions.items():
            setattr(self, name, resolve(owner, name, value))
        if not self.seed_before_weights:
            self.seed_generator = keras.random.SeedGenerator(seed=seed)
        self.state_size = (
            self.units if len(self.state_names) == 1 else [self.units] * len(self.state_names)
        )
        self.output_size = self.units

    @classmethod
    def argument_names(cls):
        """Returns the names of the constructor arguments that a config holds."""
        return [*argument_names(cls), "implementation"]

    @classmethod
    def fields(cls):
        """Returns the names of a step's gates and states, in the order of `step_type`."""
        named = {*cls.gates, *cls.state_names}
        return tuple(name for name in cls.step_type._fields if name in named)

    # Weights

    def bias_shape(self):
        return (len(self.gates) * self.units,)

    def build(self, input_shape):
        check_axes(self.owner, ("batch", "features"), input_shape)
        features = input_shape[-1]
        if not isinstance(features, numbers.Integral):
            raise ValueError(
                f"{self.owner} needs to know the number of features (the last axis of "
                f"its input) when it is built. Received: input_shape={tuple(input_shape)}. "
                "Give the last axis of `keras.Input(shape=(None, features))` a number."
            )
        width = len(self.gates) * self.units
        for name, shape in (
            ("kernel", (features, width)),
            ("recurrent_kernel", (self.units, width)),
            ("bias", self.bias_shape() if self.use_bias else None),
        ):
            short = name.removesuffix("_kernel")
            weight = shape and self.add_weight(
                shape=shape,
                name=name,
                initializer=self.initializer_of(short),
                regularizer=getattr(self, f"{short}_regularizer"),
                constraint=getattr(self, f"{short}_constraint"),
                autocast=False,
            )
            setattr(self, name, weight)
        self.built = True

    def initializer_of(self, weight):
        """Returns the initializer of `kernel`, `recurrent` or `bias`."""
        return getattr(self, f"{weight}_initializer")

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if (
            self.dropout or self.recurrent_dropout or self.recurrent_weight_dropout
        ):  # so that training goes on with the same draws
            store["seed"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        """Loads all weights or, if a file does not fit, none of them."""
        expected = {str(i): tuple(v.shape) for i, v in enumerate(self.weights)}
        names = set(store.keys())
        weights = sorted(names - {"seed", UPDATE_WRITES})
        received = {name: tuple(store[name].shape) for name in weights}
        if received != expected:
            raise ValueError(
                f"{self.owner}: the file does not hold the weights of {self.name!r}. "
                f"Expected the shapes {list(expected.values())} "
                f"({', '.join(v.name for v in self.weights)}). Received: "
                f"{list(received.values())}. Nothing was loaded into this layer. "
                "Build the layer with the `units`, `use_bias` and features it was saved with."
            )
        for name, variable in zip(expected, self.weights, strict=True):
            variable.assign(store[name])
        if "seed" in names:
            self.seed_generator.state.assign(store["seed"])

    # One step

    def input_weights(self):
        """Returns `W`, and `b` where there is one, as tensors."""
        return self.tensors(self.kernel, *(() if self.bias is None else (self.input_bias(),)))

    def tensors(self, *weights):
        """Returns weights as tensors of the dtype in which a step computes."""
        return tuple(ops.convert_to_tensor(w, dtype=self.state_dtype) for w in weights)

    def input_bias(self):
        return self.bias

    def project(self, inputs, weights):
        """Returns `W x + b` for inputs `(..., features)`: `(..., gates * units)`.

        It does not depend on the step before, so a layer may ask for all steps at once.
        """
        W, *b = weights
        return product(inputs, W) + b[0] if b else product(inputs, W)

    def recurrent_weights(self, mask=None):
        """Returns what `step` multiplies the state with and adds to that product, as tensors.

        Args:
            mask: Optional dropout mask of the recurrent kernel.
        """
        [U] = self.tensors(self.recurrent_kernel)
        return (dropped(U, mask),)

    def step(self, x, states, weights, keep=None):
        """Computes the equations of one step; each family states its own.

        Args:
            x: `W x_t + b`, `(batch, gates * units)`, as `project` returns it.
            states: The states before the step, each `(batch, units)`.
            weights: What `recurrent_weights` returns; the matrix may be a tuple of the columns of
                each gate.
            keep: Optional dropout mask for h_{t-1} in the recurrent product, `(batch, units)`.

        Returns:
            Every gate and state of the step by name: a named tuple of `gates.py`.
        """
        raise NotImplementedError

    def step_gradient(self, step, states, d_states, U_T):
        """Computes the derivative of `step`; each family writes it below its equations.

        Args:
            step: What `step` returned.
            states: The states before the step, each `(batch, units)`.
            d_states: The loss's derivatives by the states after the step, through the outputs
                of this step and of all later ones, each `(batch, units)`.
            U_T: The recurrent kernel transposed, `(gates * units, units)`.

        Returns:
            The derivatives by `W x + b` and by `U h + c`, each `(batch, gates * units)` (the same
            tensor if `inputs_and_state_are_summed`), and by the states before the step.
        """
        raise NotImplementedError

    def carried(self, step):
        """Returns what part of the memory before a step it keeps as it is, or None: no gate says.

        Args:
            step: What `step` returned.
        """

    def call(self, inputs, states, training=False):
        nested = isinstance(states, (list, tuple))
        states = list(states) if nested else [states]
        self.check(type(self).__name__, ("batch", "features"), inputs, states)
        step = self.whole_step(inputs, states, training)
        new_states = [
            ops.cast(getattr(step, name), old.dtype)
            for name, old in zip(self.state_names, states, strict=True)
        ]
        output = ops.cast(step.hidden, self.compute_dtype)
        return output, new_states if nested else new_states[0]

    def whole_step(self, inputs, states, training=False):
        """Returns every gate and state of one step by name: what `step` returns.

        Args:
            inputs: `(batch, features)`.
            states: The states before the step, each `(batch, units)`.
            training: Whether dropout is applied.
        """
        inputs, *before = (ops.cast(value, self.state_dtype) for value in (inputs, *states))
        drop = keep = drop_weights = None
        if training and self.dropout:
            drop = self.dropout_mask(inputs)
        if training and self.recurrent_dropout:
            keep = self.recurrent_dropout_mask(before[0])
        if training:
            drop_weights = self.recurrent_weight_mask()
        projected = self.project(dropped(inputs, drop), self.input_weights())
        return self.step(projected, before, self.recurrent_weights(drop_weights), keep)

    def check(self, owner, axes, inputs, states):
        """Raises unless inputs and states (None: zeros) are what a cell or its layer can take."""
        check_axes(owner, axes, inputs.shape)
        shape, dtype = tuple(inputs.shape), keras.backend.standardize_dtype(inputs.dtype)
        if not dtype.startswith(("float", "bfloat", "int", "uint", "bool")):
            raise ValueError(
                f"{owner}: inputs must be real numbers. Received: dtype={dtype}. "
                "Turn texts into ids (`keras.layers.TextVectorization`) and ids into vectors "
                "(`keras.layers.Embedding`) first."
            )
        if self.built and shape[-1] not in (None, self.kernel.shape[0]):
            raise ValueError(
                f"{owner} was built for {self.kernel.shape[0]} features (the last axis of its "
                f"input). Received: inputs.shape={shape}. Use a new layer for other features."
            )
        if states is None:
            return
        shapes = [tuple(getattr(s, "shape", ())) for s in states]
        expected = (shape[0], self.units)
        fit = [compatible(s, expected) or compatible(s, (1, self.units)) for s in shapes]
        if len(shapes) != len(self.state_names) or not all(fit):
            raise ValueError(
                f"{owner}: the states before must be {len(self.state_names)} tensor(s) "
                f"{self.state_names}, each of shape (batch, units) = {expected}. "
                f"Received: shapes {shapes}. `get_initial_state(batch_size)` makes them; a state "
                f"of one row, (1, {self.units}), is that of every row."
            )

    def get_initial_state(self, batch_size=None, dtype=None, inputs=None):
        """Returns zeros for every state: a list of `(batch_size, units)`.

        Args:
            batch_size: Number of rows.
            dtype: Default: the dtype in which a step computes.
            inputs: A tensor with as many rows, in place of `batch_size` (as in Keras 2).
        """
        shape = (number_of_rows(batch_size, inputs), self.units)
        return [ops.zeros(shape, dtype=dtype or self.state_dtype) for _ in self.state_names]

    def get_config(self):
        own = {"implementation": self.implementation}
        return self.config_with_arguments({**super().get_config(), **own})
