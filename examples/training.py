"""Shared by the training scripts: command line, cells, callbacks of `fit`, the closing line."""

import json
import os
import pathlib
import signal
import sys
import time

import keras
from argument_types import command_line, folder, positive, require_folder, seed
from resume import Resume, trained_by

import keras_gated
from keras_gated import distribute
from keras_gated.recipes import text

CELLS = {
    "simple_rnn": keras_gated.SimpleRNN,
    "lstm": keras_gated.LSTM,
    "gru": keras_gated.GRU,
    "peephole_lstm": keras_gated.PeepholeLSTM,
    "coupled_lstm": keras_gated.CoupledLSTM,
    "layer_norm_lstm": keras_gated.LayerNormLSTM,
    "layer_norm_gru": keras_gated.LayerNormGRU,
    "mogrifier_lstm": keras_gated.MogrifierLSTM,
    "mgu": keras_gated.MGU,
    "min_gru": keras_gated.MinGRU,
    "min_lstm": keras_gated.MinLSTM,
}


def parser(description, datasets, **defaults):
    """Returns the parser of a training script. `defaults` are the values that scripts differ in."""
    parser = command_line(description)
    parser.add_argument("--dataset", choices=datasets, default=datasets[0])
    parser.add_argument("--cell", choices=CELLS, default="lstm")
    parser.add_argument("--units", type=positive)
    parser.add_argument("--layers", type=positive, default=1)
    parser.add_argument("--epochs", type=positive)
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--seed", type=seed, default=1)
    parser.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    parser.add_argument(
        "--output", default="saved_models", help="exports go to OUTPUT/NAME/VERSION"
    )
    parser.add_argument("--name", help="default: the name of the data set")
    parser.add_argument(
        "--resume",
        metavar="DIRECTORY",
        type=folder,
        help="keep the state of the training there, and go on from it if there is one",
    )
    parser.add_argument(
        "--logs", type=folder, default="logs", help="CSV and TensorBoard: LOGS/NAME/TIME"
    )
    parser.set_defaults(**defaults)
    return parser


def parsed(parser):
    """Returns the arguments; ends the program if what it trains could not be exported."""
    args = parser.parse_args()
    require_folder(parser, exports(args))
    return args


def exports(args):
    """Returns the folder of the exported versions."""
    return pathlib.Path(args.output, args.name or args.dataset)


def cluster(args):
    """Returns the strategy for the cluster of TF_CONFIG, in which the chief alone prints."""
    strategy = distribute.strategy(**trained_by(vars(args)))
    if not strategy.extended.should_checkpoint:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return strategy


def mean(logits, name):
    """Returns the mean of the logits of some networks. Those of a single network stay the same."""
    return keras.layers.Average(name=name)(logits) if len(logits) > 1 else logits[0]


def report(args, **results):
    """Prints the last line: one JSON object that programs can read."""
    setting = {name: getattr(args, name) for name in ("dataset", "cell", "units", "layers", "seed")}
    print(json.dumps({**setting, **results}), flush=True)


def to_look_inside(model, kind, vocabulary, **reading):
    """Returns the files that `export_model` writes beside a model, for `look_inside.py`.

    Args:
        model: The Keras model from ids to predictions.
        kind: "sentiment" or "characters".
        vocabulary: The token of each id, a list of strings.
        reading: Further settings for reading a text.
    """
    without_optimizer = keras.Model(model.input, model.output)
    reader = json.dumps({"kind": kind, "vocabulary": vocabulary, **reading})
    return {
        "model.keras": without_optimizer.save,
        "reader.json": lambda path: pathlib.Path(path).write_text(reader),
    }


def ids_of(reader):
    """Returns a function from texts to the ragged ids of words that a classifier reads.

    Args:
        reader: What `to_look_inside` wrote for the classifier.
    """
    vectorizer = keras.layers.TextVectorization(
        standardize=text.clean, ragged=True, vocabulary=reader["vocabulary"]
    )
    return lambda texts: text.head_and_tail(vectorizer(texts), reader["head"], reader["tail"])


def callbacks(args, model, best, *before):
    """Returns the callbacks of a training. The last is its `Resume`.

    Args:
        args: Parsed by `parser`.
        model: The compiled model.
        best: The `EarlyStopping` that keeps the best weights.
        before: Callbacks that come before all others.
    """
    resume = Resume(args.resume, vars(args), model, best)
    distribute.check_workers(model, epoch=resume.epoch)
    if not model.distribute_strategy.extended.should_checkpoint:
        return [*before, best, Interrupt(), resume]
    moment = time.strftime("%Y%m%d-%H%M%S")
    logs = pathlib.Path(resume.logs or pathlib.Path(args.logs, args.name or args.dataset, moment))
    logs.mkdir(parents=True, exist_ok=True)
    resume.logs = str(logs)
    table = logs / "history.csv"
    # A kill may have come after an epoch's line was written and before its state was.
    if table.exists():
        table.write_text("".join(table.read_text().splitlines(True)[: resume.epoch + 1]))
    return [
        *before,
        best,
        keras.callbacks.CSVLogger(table, append=True),
        keras.callbacks.TensorBoard(logs, write_graph=False),
        TimeLeft(),
        Interrupt(),
        resume,
    ]


class TimeLeft(keras.callbacks.Callback):
    """Prints after every epoch how long the remaining ones will take."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.time()

    def on_epoch_end(self, epoch, logs=None):
        left = self.params["epochs"] - epoch - 1
        if left and not self.model.stop_training:
            seconds = left * (time.time() - self._start)
            print(f"At most {left} more epochs, about {seconds / 60:.1f} minutes", flush=True)


class Interrupt(keras.callbacks.Callback):
    """Lets Ctrl-C end a training after the current step, with the best weights so far.

    If several workers train, a worker ends at once: the others would wait for its next step.

    Attributes:
        came: Whether Ctrl-C was pressed.
    """

    came = False

    def on_train_begin(self, logs=None):
        self._before = signal.getsignal(signal.SIGINT)
        if self.model.distribute_strategy.num_replicas_in_sync == 1:
            signal.signal(signal.SIGINT, self._stop)

    def _stop(self, *_):
        print("\nStopping. Ctrl-C again to drop everything.", flush=True)
        self.came = self.model.stop_training = True
        signal.signal(signal.SIGINT, self._before)

    def on_train_end(self, logs=None):
        signal.signal(signal.SIGINT, self._before)
