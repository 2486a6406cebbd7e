"""Train a next-character model of every family with equally many weights, for the same time.

    python examples/compare_cells.py --dataset toy_plays --minutes 0.1 --parameters 50000
    TFDS_DATA_DIR=... python examples/compare_cells.py           # 3 minutes a family

Prints one table in Markdown. For each family:

- `units` is chosen so that the whole model has the wanted number of weights, within 2 %;
- the learning rate goes up in the first twentieth of the steps, and then down to zero. The number
  of steps that fit into the time is measured before, in a few seconds of steps that are undone;
- the time is that of training alone: compiling, measuring and evaluating do not count;
- `validation` is the loss on the last part of the training text, in nats a character, and
  `held out` the loss on the other splits. The trained model reads the held-out text once, and
  nothing is chosen by this loss.

All families have the same learning rate, windows and names of speakers; none is tuned. One seed is
one draw: to establish a small difference, run several seeds.
"""

import itertools
import time

import quiet_tensorflow  # noqa: F401
import characters
import keras
import numpy as np
import tensorflow as tf
from argument_types import above_zero, command_line, positive, seed, share
from training import CELLS

import keras_gated
from keras_gated import datasets
from keras_gated.recipes import text

COLUMNS = ("family", "units", "parameters", "steps", "ms a step", "validation", "held out")


def arguments():
    p = command_line(__doc__)
    p.add_argument(
        "--dataset", choices=["tiny_shakespeare", "toy_plays"], default="tiny_shakespeare"
    )
    p.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    p.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    p.add_argument("--parameters", type=positive, default=300_000, help="weights of a model")
    p.add_argument("--minutes", type=above_zero, default=3, help="of training, a family")
    p.add_argument("--layers", type=positive, default=1)
    p.add_argument("--batch-size", type=positive, default=16)
    p.add_argument("--steps", type=positive, default=100, help="characters of one training window")
    p.add_argument("--rate", type=above_zero, default=3e-3, help="the highest learning rate")
    p.add_argument("--dropout", type=share, default=0.0, help="of what a layer puts out")
    p.add_argument("--rename", type=share, default=0.8, help="share of speakers with other names")
    p.add_argument("--draws", type=positive, default=10, help="of the names of speakers")
    p.add_argument("--seed", type=seed, default=1)
    return p.parse_args()


def units_for(parameters, *size):
    """Returns the number of units with which a model has so many weights, within 2 %.

    Args:
        parameters: The wanted number of weights.
        size: The characters, cell and layers of `build_model`.
    """
    known, cell, depth = size
    at = (8, 16, 32)
    counts = [characters.build_model(known, cell, units, depth)[0].count_params() for units in at]
    count = np.polynomial.Polynomial.fit(at, counts, 2)  # matrices have units * units entries
    units = np.arange(1, parameters)
    nearest = int(units[np.abs(count(units) - parameters).argmin()])
    if abs(count(nearest) - parameters) > 0.02 * parameters:
        raise SystemExit(
            f"compare_cells: no number of units gives {cell} a number of weights within 2 % of "
            f"--parameters. Received: {parameters}. With {nearest} units it has "
            f"{round(count(nearest))}; larger models come nearer."
        )
    return nearest


def train(model, args, plays):
    """Trains a model for the time given. Returns its steps, and milliseconds a step."""
    batches, of_a_play = characters.windows(plays, args.steps, args.batch_size)

    def run(rates, seconds=np.inf):
        data = iter(batches.repeat().prefetch(2))
        start, done = time.perf_counter(), 0
        for rate, batch in zip(rates, data, strict=False):
            if done % of_a_play == 0:
                keras_gated.reset_state(model)
            model.optimizer.learning_rate = rate
            model.train_on_batch(*batch)
            done += 1
            if time.perf_counter() - start > seconds:
                break
        return done, (time.perf_counter() - start) / done

    seconds = 60 * args.minutes
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    before = [v.numpy() for v in variables]
    run(2 * [args.rate])  # compiles
    _, time_of_a_step = run(itertools.repeat(args.rate), min(5, seconds / 5))
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    steps = max(round(seconds / time_of_a_step), 1)
    up = steps // 20
    rate = keras.optimizers.schedules.CosineDecay(
        args.rate / 100, steps - up, warmup_target=args.rate, warmup_steps=up
    )
    steps, time_of_a_step = run([float(rate(step)) for step in range(steps)])
    return steps, 1000 * time_of_a_step


def compared(cell, args, texts):
    """Trains a model of one family. Returns its row of the table."""
    keras.utils.set_random_seed(args.seed)
    known = texts.lookup.vocabulary_size() - text.FIRST
    units = units_for(args.parameters, known, cell, args.layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    size = [known, cell, units, args.layers]
    of_rows, _ = characters.build_model(*size, args.dropout, rows=args.batch_size)
    of_rows.compile(keras.optimizers.Adam(args.rate, beta_2=0.99, clipnorm=1.0), loss)
    steps, ms = train(of_rows, args, texts.plays)
    model, _ = characters.build_model(*size)
    model.set_weights(of_rows.get_weights())
    model.compile(loss=loss)
    nats = [
        model.evaluate(characters.streams(ids), verbose=0)
        for ids in (texts.validation, texts.held_out)
    ]
    name = CELLS[cell].__name__
    return [name, units, model.count_params(), steps, f"{ms:.1f}", *(f"{n:.4f}" for n in nats)]


def print_row(values):
    print(f"| {' | '.join(map(str, values))} |", flush=True)


def main():
    args = arguments()
    splits = datasets.load(args.dataset, args.data_dir, offline="toy_plays")
    texts = characters.texts_of(splits, args.seed, args.draws, args.rename)
    print_row(COLUMNS)
    print_row(["---", *["---:"] * (len(COLUMNS) - 1)])
    for cell in args.cells:
        print_row(compared(cell, args, texts))


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")  # it warns if one process traces many models
    main()
