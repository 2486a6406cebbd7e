"""What the two training scripts share: the command line, the cells, the closing line."""

import argparse
import json

import keras_gated

CELLS = {"simple_rnn": keras_gated.SimpleRNN, "lstm": keras_gated.LSTM, "gru": keras_gated.GRU}


def parser(description, datasets, **defaults):
    """Returns the parser of a training script; `defaults` fill in what scripts differ in."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=datasets, default=datasets[0])
    parser.add_argument("--cell", choices=CELLS, default="lstm")
    parser.add_argument("--units", type=positive)
    parser.add_argument("--layers", type=positive, default=1)
    parser.add_argument("--epochs", type=positive)
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    parser.add_argument(
        "--output", default="saved_models", help="exports go to OUTPUT/NAME/VERSION"
    )
    parser.add_argument("--name", help="default: the name of the data set")
    parser.set_defaults(**defaults)
    return parser


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer. Received: {text}")
    return number


def report(args, **results):
    """Prints the last line: one JSON object that programs can read."""
    setting = {name: getattr(args, name) for name in ("dataset", "cell", "units", "layers", "seed")}
    print(json.dumps({**setting, **results}), flush=True)
