"""The base of all cells: weights, input projection, dropout, config. A cell adds its `step`."""

import collections

import keras
from keras import ops

from keras_gated.cells import contract
from keras_gated.cells.arguments import (
    Configurable,
    argument_names,
    arguments_of,
    boolean,
    check_axes,
    compatible,
    documented,
    kind,
    number_of_rows,
    positive_integer,
    rate,
    resolve,
)
from keras_gated.cells.dropout import DropsInTraining, Masks, dropped, with_zones
from keras_gated.cells.products import dropping, product

UPDATE_WRITES = "update_gate_writes"  # marks the weights of our GRU in a file: see `gru.py`


class GatedCell(Configurable, keras.layers.Layer, DropsInTraining):
    """The base of all cells: a subclass states the equations of one step, and the rest follows.

    A subclass names its `gates` and states and writes `step`. `keras_gated.RNN` then runs it over
    sequences, and trains, traces and exports it like an LSTM. For example, a minimal gated unit:

        @keras.saving.register_keras_serializable()
        class MinimalCell(keras_gated.GatedCell):
            gates = ("forget", "candidate")

            def recurrent_weights(self, mask=None):
                [U] = super().recurrent_weights(mask)
                return U[:, : self.units], U[:, self.units :]

            def step(self, x, states, weights):
                [h] = states
                U_f, U_h = weights
                x_f, x_h = ops.split(x, 2, axis=-1)
                f = self.recurrent_activation(x_f + product(h, U_f))
                n = self.activation(x_h + product(f * h, U_h))
                return dict(forget=f, candidate=n, hidden=(1 - f) * h + f * n)

    A subclass may also define, each with a default: `state_names` and `state_widths`;
    `weight_shapes` and `initializer_of` for further weights; `project`, `recurrent_weights`,
    `carried`, `step_gradient`, `step_type`, `reads`, `without`. Its constructor names the
    arguments that it adds, passes the others on as `**kwargs`, and keeps each added argument as
    an attribute of the same name, so that the config holds it.

    Args:
        units: Positive integer, the size of the hidden state.
        activation: The function of the new memory content. Default: `tanh`.
        recurrent_activation: The function of the gates. Default: `sigmoid`.
        use_bias: Whether the cell has a bias.
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of the kernel,
            the recurrent kernel and the bias.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the same.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints of the same.
        dropout: Fraction of the inputs dropped in training, 0 to 1, the same at every step.
        recurrent_dropout: Fraction of `h_{t-1}` dropped in training in the recurrent products.
        seed: Integer seed of all dropouts.
        recurrent_weight_dropout: Fraction of the entries of the recurrent kernel dropped in
            training, the same for all rows and steps of a call (DropConnect: Merity, Keskar and
            Socher 2017, arXiv:1708.02182, section 2).
        zoneout: Fraction of the units of a state that keep their value in a step. Training draws
            the units anew at every step; inference uses the expected value (Krueger et al. 2016,
            arXiv:1606.01305, section 3). A number, or a list of numbers, one for each state.

    Call arguments:
        inputs: `(batch, features)`, one step.
        states: A list of the states before the step, each `(batch, width)`, in the order of
            `state_names`; a single state may also be given without a list.
        training: Whether dropout is applied.

    Returns:
        The hidden state, `(batch, units)`, and the new states in the form of `states`.

    Raises:
        ValueError: For an argument that is not accepted, or if `step` does not fit the names that
            the class states. The message says which.
    """

    gates: tuple[str, ...] = ()  # in the order of the kernel's columns, `units` columns each
    state_names: tuple[str, ...] = ("hidden",)  # the first state is the output
    step_type: type  # a named tuple of all that `step` returns. Default: the gates and the states.
    # Names of the attributes (numbers and functions) that `step`, `step_gradient` and `project`
    # read, besides `units`. A class leaves out names that a base lists. Cells of classes that state
    # `reads` share traced and compiled functions.
    reads: tuple[str, ...]
    without: tuple[str, ...] = ()  # names of the arguments above that a family does not have
    # True if `step` uses the input and the recurrent product only through their sum. Both then have
    # the same derivative, and `step_gradient` returns it twice.
    inputs_and_state_are_summed = True
    seed_before_weights = False  # True if Keras draws the dropout seed before the initializers'

    kernel = recurrent_kernel = bias = _features = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "step_type" not in vars(cls) and {"gates", "state_names"} & vars(cls).keys():
            names = dict.fromkeys([*cls.gates, *cls.state_names])
            cls.step_type = collections.namedtuple(f"{cls.__name__}Step", names)
        documented(cls)

    def __init__(
        self,
        units: int,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias: bool = True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        recurrent_weight_dropout: float = 0.0,
        zoneout: float | list[float] = 0.0,
        **kwargs,
    ):
        arguments = arguments_of(locals())
        implementation, owner = kwargs.pop("implementation", 2), kwargs.pop("owner", None)
        # Only inputs and outputs have half precision. A step computes in float32: a state in half
        # precision would lose small changes (at 16.0, float16 numbers are 1/64 apart).
        super().__init__(**{**kwargs, "autocast": False})
        half = self.compute_dtype in ("float16", "bfloat16")
        self.state_dtype = "float32" if half else self.compute_dtype
        self.owner = owner = owner or type(self).__name__  # the layer's name, for errors
        contract.check_class(type(self), owner)
        self.units = positive_integer(owner, "units", units)
        self.use_bias = boolean(owner, "use_bias", use_bias)
        for name in ("dropout", "recurrent_dropout", "recurrent_weight_dropout"):
            setattr(self, name, rate(owner, name, arguments[name]))
        self.zoneout = contract.rates_of_states(owner, zoneout, self.state_names)
        if implementation not in (0, 1, 2):
            raise ValueError(
                f"{owner}: `implementation` must be 0, 1 or 2 (as in `keras.layers`; all give the "
                f"same equations here). Received: implementation={implementation!r}. Leave it out."
            )
        self.implementation = int(implementation)
        self.seed = seed
        # Seeds that are not given are drawn in Keras's order, so that weights start as Keras's do.
        if self.seed_before_weights:
            self.seed_generator = keras.random.SeedGenerator(seed=seed)
        for name, value in arguments.items():
            if kind(name) and name not in self.without:
                setattr(self, name, resolve(owner, name, value))
        if not self.seed_before_weights:
            self.seed_generator = keras.random.SeedGenerator(seed=seed)

    @property
    def state_size(self):
        widths = self.state_widths()
        return widths if len(widths) > 1 else widths[0]

    @property
    def output_size(self) -> int:
        return self.state_widths()[0]

    def state_widths(self) -> list[int]:
        """Returns the width of each state, in the order of `state_names`."""
        return [self.units] * len(self.state_names)

    def width_of(self, field: str) -> int:
        """Returns the width of a gate or state."""
        return dict(zip(self.state_names, self.state_widths(), strict=True)).get(field, self.units)

    def zoneout_rates(self) -> list[float]:
        """Returns for each state the fraction of its units that zoneout leaves unchanged."""
        if isinstance(self.zoneout, list):
            return self.zoneout
        return [self.zoneout] * len(self.state_names)

    @classmethod
    def argument_names(cls) -> list[str]:
        """Returns the names of the constructor arguments that a config holds."""
        return [*argument_names(cls), "implementation"]

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """Returns the names of a step's gates and states, in the order of `step_type`."""
        named = {*cls.gates, *cls.state_names}
        return tuple(name for name in cls.step_type._fields if name in named)

    # Weights

    def bias_shape(self) -> tuple[int, ...]:
        return (len(self.gates) * self.units,)

    def weight_shapes(self, features: int) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the weights by name, in the order in which they are stored.

        A subclass may add weights. `project` gets those whose names begin with `kernel_`, after
        the bias. `step` gets the others, after the recurrent kernel.
        """
        width = len(self.gates) * self.units
        shapes = {"kernel": (features, width), "recurrent_kernel": (self.output_size, width)}
        return {**shapes, "bias": self.bias_shape()} if self.use_bias else shapes

    def build(self, input_shape):
        check_axes(self.owner, ("batch", "features"), input_shape)
        self._features = contract.number_of_features(self.owner, input_shape)
        shapes = self.weight_shapes(self._features)
        contract.check_built(self, shapes)
        for name, shape in shapes.items():
            short = name.removesuffix("_kernel")
            weight = self.add_weight(
                shape=shape,
                name=name,
                initializer=self.initializer_of(short),
                regularizer=getattr(self, f"{short}_regularizer", None),
                constraint=getattr(self, f"{short}_constraint", None),
                autocast=False,
            )
            setattr(self, name, weight)
        if "recurrent_kernel" not in shapes and self.recurrent_weight_dropout:
            raise ValueError(
                f"{self.owner}: `recurrent_weight_dropout` drops entries of the recurrent kernel, "
                f"and {type(self).__name__} has none. Received: recurrent_weight_dropout="
                f"{self.recurrent_weight_dropout}. Leave it out."
            )
        self._further = [n for n in shapes if n not in ("kernel", "recurrent_kernel", "bias")]
        self.built = True

    def initializer_of(self, weight: str):
        """Returns the initializer of `kernel`, `recurrent`, `bias`, or a further weight.

        A further weight uses the argument `<name>_initializer` if the cell has it, and the
        initializer of the kernel otherwise.
        """
        return getattr(self, f"{weight}_initializer", self.kernel_initializer)

    def input_width(self) -> int:
        """Returns the number of features for which the cell was built."""
        return self._features or self.kernel.shape[0]

    def own_weights(self):
        """Returns the variables of the cell, not of layers in it, by their keys in files."""
        weights = {}
        super().save_own_variables(weights)
        return weights

    def save_own_variables(self, store):
        super().save_own_variables(store)
        rates = (self.dropout, self.recurrent_dropout, self.recurrent_weight_dropout)
        if any([*rates, *self.zoneout_rates()]):  # so that training goes on with the same draws
            store["seed"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        """Loads all weights of the cell itself or, if a file does not fit, none of them."""
        own = self.own_weights()
        expected = {key: tuple(weight.shape) for key, weight in own.items()}
        names = set(store.keys())
        weights = sorted(names - {"seed", UPDATE_WRITES})
        received = {name: tuple(store[name].shape) for name in weights}
        if received != expected:
            raise ValueError(
                f"{self.owner}: the file does not hold the weights of {self.name!r}. "
                f"Expected the shapes {list(expected.values())} "
                f"({', '.join(weight.name for weight in own.values())}). Received: "
                f"{list(received.values())}. Nothing was loaded into this layer. "
                "Build the layer with the `units`, `use_bias` and features it was saved with."
            )
        for key, weight in own.items():
            weight.assign(store[key])
        if "seed" in names:
            self.seed_generator.state.assign(store["seed"])

    # One step

    def input_weights(self):
        """Returns the tensors that `project` gets: `W`, `b` and further weights, as they exist."""
        kernel = () if self.kernel is None else (self.kernel,)
        bias = () if self.bias is None else (self.input_bias(),)
        return self.tensors(*kernel, *bias, *self._further_weights(True))

    def _further_weights(self, of_inputs):
        names = [n for n in self._further if n.startswith("kernel_") == of_inputs]
        return [getattr(self, name) for name in names]

    def tensors(self, *weights):
        """Returns weights as tensors of the dtype in which a step computes."""
        return tuple(ops.convert_to_tensor(w, dtype=self.state_dtype) for w in weights)

    def input_bias(self):
        return self.bias

    def project(self, inputs, weights):
        """Returns `W x + b` for inputs `(..., features)`: `(..., gates * units)`.

        The result does not depend on the step before. So a layer computes it for all steps at once.
        """
        W, *b = weights
        a = product(inputs, W, recurrent=False)
        return a + b[0] if b else a

    def recurrent_weights(self, mask=None):
        """Returns the weights for `step` as tensors: the recurrent kernel and further weights.

        Args:
            mask: Optional dropout mask of the recurrent kernel.
        """
        kernel = () if self.recurrent_kernel is None else self.tensors(self.recurrent_kernel)
        return (*(dropped(U, mask) for U in kernel), *self.tensors(*self._further_weights(False)))

    def step(self, x, states, weights):
        """Computes the equations of one step; each family states its own.

        The fused path runs a step that computes each row for itself, from its arguments, numbers
        and NumPy arrays. Any other step runs in the cell's loop.

        Args:
            x: `W x_t + b`, `(batch, gates * units)`, or whatever `project` returns.
            states: The states before the step, each `(batch, width)`.
            weights: The weights that `recurrent_weights` returns. A step multiplies by them with
                `product`, and reads no other weight of the cell.

        Returns:
            Every gate and state of the step by name: a dict, or a `step_type`.
        """
        raise NotImplementedError

    def step_gradient(self, step, states, d_states, U_T):
        """Computes the derivative of `step`, written by hand. Default: TensorFlow derives it.

        It is used if the same class also defines `step`, and if `step_gradient_holds()` is True.

        Args:
            step: What `step` returned.
            states: The states before the step, each `(batch, width)`.
            d_states: The derivatives of the loss with respect to the states after the step,
                through the outputs of this step and of all later steps, each `(batch, width)`.
            U_T: The recurrent kernel transposed, `(gates * units, width)`.

        Returns:
            The derivatives with respect to `W x + b` and to `U h + c`, each
            `(batch, gates * units)` (the same tensor if `inputs_and_state_are_summed`), and a list
            of the derivatives with respect to the states before the step.
        """
        raise NotImplementedError

    def step_gradient_holds(self) -> bool:
        """Whether `step_gradient` is the derivative of `step` with this cell's arguments."""
        standard = {"activation": "tanh", "recurrent_activation": "sigmoid"}
        return all(
            getattr(self, name, None) in (None, getattr(keras.activations, function))
            for name, function in standard.items()
        )

    def carried(self, step):
        """Returns the part of the memory that the gates of a step keep. Default: None.

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

    def whole_step(self, inputs, states, training=False, masks=None):
        """Returns every gate and state of one step by name, as a `step_type`.

        Args:
            inputs: `(batch, features)`.
            states: The states before the step, each `(batch, width)`.
            training: Whether dropout is applied.
            masks: Optional `Masks` of dropout. Default: drawn if `training`, else none.
        """
        inputs, *before = (ops.cast(value, self.state_dtype) for value in (inputs, *states))
        if masks is None:
            masks = self.masks_of_a_step(inputs, before[0]) if training else Masks()
        projected = self.project(dropped(inputs, masks.inputs), self.input_weights())
        return masked_step(self, projected, before, self.recurrent_weights(masks.kernel), masks)

    def check(self, owner, axes, inputs, states):
        """Raises unless a cell or its layer can take the inputs and the states (None: zeros)."""
        check_axes(owner, axes, inputs.shape)
        shape, dtype = tuple(inputs.shape), keras.backend.standardize_dtype(inputs.dtype)
        if not dtype.startswith(("float", "bfloat", "int", "uint", "bool")):
            raise ValueError(
                f"{owner}: inputs must be real numbers. Received: dtype={dtype}. "
                "Turn texts into ids (`keras.layers.TextVectorization`) and ids into vectors "
                "(`keras.layers.Embedding`) first."
            )
        if self.built and shape[-1] not in (None, self.input_width()):
            raise ValueError(
                f"{owner} was built for {self.input_width()} features (the last axis of its "
                f"input). Received: inputs.shape={shape}. Use a new layer for other features."
            )
        if states is None:
            return
        shapes, widths = [tuple(getattr(s, "shape", ())) for s in states], self.state_widths()
        fit = [
            compatible(own, (shape[0], width)) or compatible(own, (1, width))
            for own, width in zip(shapes, widths, strict=False)
        ]
        if len(shapes) != len(widths) or not all(fit):
            received = [
                shape if hasattr(s, "shape") else f"a {type(s).__name__}"
                for s, shape in zip(states, shapes, strict=True)
            ]
            expected = " and ".join(str((shape[0], width)) for width in dict.fromkeys(widths))
            raise ValueError(
                f"{owner}: the states before must be {len(widths)} tensor(s) "
                f"{self.state_names}, each of shape (batch, units) = {expected}. "
                f"Received: shapes {received}. `get_initial_state(batch_size)` makes them; a state "
                f"of one row, (1, {widths[0]}), is that of every row."
            )

    def get_initial_state(self, batch_size=None, dtype=None, inputs=None):
        """Returns zeros for every state: a list of `(batch_size, width)`.

        Args:
            batch_size: Number of rows.
            dtype: Default: the dtype in which a step computes.
            inputs: A tensor whose rows are counted, in place of `batch_size` (as in Keras 2).
        """
        rows, dtype = number_of_rows(batch_size, inputs), dtype or self.state_dtype
        return [ops.zeros((rows, width), dtype=dtype) for width in self.state_widths()]

    def further_config(self):
        return {"implementation": self.implementation}


def masked_step(cell, x, states, weights, masks):
    """Returns one step of a cell, or of its `Equations`, with dropout and zoneout applied.

    Args:
        cell: An object with `step`, `step_type`, `state_names` and `zoneout_rates`.
        x: The result of `project`.
        states: The states before the step.
        weights: The result of `recurrent_weights`.
        masks: `Masks`, of which `hidden` and the `zones` of this step are used.
    """
    with dropping(masks.hidden):
        step = contract.by_name(cell, cell.step(x, states, weights))
    return with_zones(step, states, cell.state_names, cell.zoneout_rates(), masks.zones)
