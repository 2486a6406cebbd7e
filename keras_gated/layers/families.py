"""Short names for `RNN` around the cells of this package, with the arguments of `keras.layers`."""

import inspect
import re

import keras

from keras_gated.cells.arguments import parameters_of
from keras_gated.cells.coupled_lstm import CoupledLSTMCell
from keras_gated.cells.gru import GRUCell
from keras_gated.cells.layer_norm_gru import LayerNormGRUCell
from keras_gated.cells.layer_norm_lstm import LayerNormLSTMCell
from keras_gated.cells.lstm import LSTMCell
from keras_gated.cells.mgu import MGUCell
from keras_gated.cells.min_gru import MinGRUCell
from keras_gated.cells.min_lstm import MinLSTMCell
from keras_gated.cells.mogrifier_lstm import MogrifierLSTMCell
from keras_gated.cells.peephole_lstm import PeepholeLSTMCell
from keras_gated.cells.simple_rnn import SimpleRNNCell
from keras_gated.layers.base import RNN, document

# Arguments of cells that Keras does not have.
_LAST = ("recurrent_weight_dropout", "zoneout", "projection")


def _constructor(cls):
    """Returns the constructor of a short name, with the arguments of its cell and of `RNN`."""
    of_cell = {p.name: p for p in parameters_of(cls.cell_class)}
    of_rnn = {p.name: p for p in parameters_of(RNN) if p.name not in cls.without}
    first = [name for name in of_cell if name not in (*cls.late, *_LAST)]
    if "bias_regularizer" in of_cell:
        of_rnn["activity_regularizer"] = of_cell["bias_regularizer"].replace(
            name="activity_regularizer"
        )
        first.insert(first.index("bias_regularizer") + 1, "activity_regularizer")
    of_sequence = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll")
    order = [*first, *of_sequence, *cls.late, "use_cudnn", *_LAST, *of_rnn]
    found = {**of_rnn, **of_cell}
    parameters = [found[name] for name in dict.fromkeys(order) if name in found]
    parameters.sort(key=lambda p: p.kind == p.KEYWORD_ONLY)
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    others = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
    signature = inspect.Signature([this, *parameters, others])

    def init(self, *args, **kwargs):
        try:
            arguments = signature.bind(self, *args, **kwargs).arguments
        except TypeError as error:  # does not say of which class
            raise TypeError(f"{init.__qualname__}(): {error}") from None
        del arguments["self"]
        super(cls, self).__init__(**{**arguments.pop("kwargs", {}), **arguments})

    init.__signature__ = signature
    init.__name__, init.__qualname__ = "__init__", f"{cls.__qualname__}.__init__"
    return init


def _snake_case(name):
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()


class OfAFamily(RNN):
    """A short name for `RNN` around a cell of one family, which takes the cell's arguments.

    A subclass names its `cell_class`. Its constructor has the arguments of the cell and those of a
    sequence, in Keras's order.
    """

    cell_class: type
    late = ()  # names of cell arguments that follow those of a sequence in Keras's layer
    without = ("cell",)

    def __init_subclass__(cls, **kwargs):
        """Makes the constructor; `layer.units`, ... return the cell's attributes, as in Keras."""
        if not hasattr(cls.cell_class, "cudnn_mode"):
            cls.without = (*cls.without, "use_cudnn")
        if "__init__" not in vars(cls) and "cell_class" in vars(cls):
            cls.__init__ = _constructor(cls)
        super().__init_subclass__(**kwargs)
        for name in cls.cell_class.argument_names():
            setattr(cls, name, property(lambda self, name=name: getattr(self.cell, name)))

    def __init__(self, **arguments):
        names = self.cell_class.argument_names()
        cell_arguments = {name: arguments.pop(name) for name in names if name in arguments}
        cell = self.cell_class(
            **cell_arguments,
            dtype=arguments.get("dtype"),
            trainable=arguments.get("trainable", True),
            name=f"{_snake_case(self.cell_class.__name__.removesuffix('Cell'))}_cell",
            owner=type(self).__name__,
        )
        super().__init__(cell, **arguments)

    def further_config(self):
        config, names = self.cell.get_config(), self.cell_class.argument_names()
        return {name: config[name] for name in names if name in config}


def _family(cls):
    """Registers a class of this file, and adds to its docstring what all of them have in common."""
    cls.__doc__ = (cls.__doc__ or "").rstrip() + _ARGUMENTS
    document(cls, cls.cell_class)
    return keras.saving.register_keras_serializable(package="keras_gated")(cls)


_ARGUMENTS = """

    Args:
        {cell}
        {sequence}
    """


@_family
class SimpleRNN(OfAFamily):
    """The vanilla recurrent network over a sequence: see `SimpleRNNCell` for the equation."""

    cell_class, late = SimpleRNNCell, ("seed",)


@_family
class LSTM(OfAFamily):
    """Long short-term memory over a sequence: see `LSTMCell` for the equations."""

    cell_class = LSTMCell


@_family
class GRU(OfAFamily):
    """The gated recurrent unit over a sequence: see `GRUCell` for the equations.

    Its update gate is the complement of the gate of `keras.layers.GRU`: 1 writes the new memory.
    Weights of `keras.layers.GRU` have the same shapes, so `set_weights` takes them without an
    error, and the outputs are then wrong. `keras_gated.from_keras` converts them.
    """

    cell_class, late = GRUCell, ("reset_after",)


@_family
class PeepholeLSTM(OfAFamily):
    """The LSTM with peepholes over a sequence: see `PeepholeLSTMCell` for the equations."""

    cell_class = PeepholeLSTMCell


@_family
class CoupledLSTM(OfAFamily):
    """The LSTM with coupled gates over a sequence: see `CoupledLSTMCell` for the equations."""

    cell_class = CoupledLSTMCell


@_family
class LayerNormLSTM(OfAFamily):
    """The layer-normalized LSTM over a sequence: see `LayerNormLSTMCell` for the equations."""

    cell_class = LayerNormLSTMCell


@_family
class LayerNormGRU(OfAFamily):
    """The layer-normalized GRU over a sequence: see `LayerNormGRUCell` for the equations."""

    cell_class = LayerNormGRUCell


@_family
class MogrifierLSTM(OfAFamily):
    """The Mogrifier LSTM over a sequence: see `MogrifierLSTMCell` for the equations."""

    cell_class = MogrifierLSTMCell


@_family
class MGU(OfAFamily):
    """The minimal gated unit over a sequence: see `MGUCell` for the equations."""

    cell_class = MGUCell


@_family
class MinGRU(OfAFamily):
    """minGRU over a sequence: see `MinGRUCell` for the equations."""

    cell_class = MinGRUCell


@_family
class MinLSTM(OfAFamily):
    """minLSTM over a sequence: see `MinLSTMCell` for the equations."""

    cell_class = MinLSTMCell
