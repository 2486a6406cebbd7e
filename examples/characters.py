"""Train a next-character model and export it for serving.

    python examples/characters.py --dataset toy_plays
    TFDS_DATA_DIR=... python examples/characters.py --dataset tiny_shakespeare
    python examples/cluster.py --workers 2 examples/characters.py --dataset toy_plays

A held-out play has other speakers than the training plays. A network that learned the training
plays by heart expects their speakers: labels such as "PETRUCHIO:", 8 of 100 characters, are then a
sixth of the loss. So in training speakers get invented names, others in every scene. The network
thus learns to take the speakers' names from the text that it has read.

Each row of a batch goes on where that row of the last batch stopped. The networks keep their states
from there. So they read with all that came before, though a window is short. Short windows make
more steps of the optimizer out of the same text. The gradient stops where a window begins.

With `--n-grams`, the networks are averaged with the shares of the n-grams of the training text. The
networks count twice. They generalize better. The n-grams remember spellings and phrases that the
networks have forgotten. They are counted, not trained, and the networks' training is the same.
"""

import functools
import math
import random
import re
from typing import Any, NamedTuple

import quiet_tensorflow  # noqa: F401
import keras
import numpy as np
import tensorflow as tf
from argument_types import above_zero, positive, readable, share, whole
from keras import layers
from training import (
    CELLS,
    callbacks,
    cluster,
    exports,
    mean,
    parsed,
    parser,
    report,
    to_look_inside,
)

import keras_gated
from keras_gated import datasets
from keras_gated.recipes import generation, text
from keras_gated.recipes.kneser_ney import KneserNey


def arguments():
    p = parser(__doc__, ["tiny_shakespeare", "toy_plays"], units=480, epochs=5, batch_size=16)
    p.add_argument("--steps", type=positive, default=100, help="characters of one training window")
    p.add_argument("--rename", type=share, default=0.8, help="share of speakers with other names")
    p.add_argument("--rate", type=above_zero, default=6e-3, help="the highest learning rate")
    p.add_argument("--dropout", type=share, default=0.2, help="of what a layer puts out")
    p.add_argument("--weight-dropout", type=share, default=0.0, help="of recurrent weights")
    p.add_argument("--networks", type=positive, default=2, help="their logits are averaged")
    p.add_argument(
        "--n-grams",
        type=whole,
        default=0,
        help="the longest n-grams of characters that are counted; 0: the networks alone",
    )
    p.add_argument(
        "--dynamic", action="store_true", help="measure learning that goes on while reading, too"
    )
    p.add_argument("--prompt", type=readable, default="\n", help="the printed sample continues it")
    args = parsed(p)
    if args.weight_dropout and "recurrent_weight_dropout" in CELLS[args.cell].cell_class.without:
        p.error(
            f"--weight-dropout drops recurrent weights, and {args.cell} has none. Received: "
            f"{args.weight_dropout}. Leave it out, or choose another --cell."
        )
    if args.n_grams == 1:
        p.error("--n-grams 1 has no context. Give 0, or 2 and more.")
    return args


def build_model(
    characters, cell, units, depth, dropout=0.2, weight_dropout=0.0, networks=1, rows=None
):
    """Returns the model from ids to the logits of the next character, and the model to train.

    The second model has the outputs `network` (and `network_2`, ...) and `logits`, their mean. With
    a number of `rows`, both are stateful: a row goes on where that row of the last batch stopped.
    """
    ids = keras.Input((None,), batch_size=rows, dtype="int64", name="ids")
    # Left out if nothing is dropped: not every family has recurrent weights.
    drops = {"recurrent_weight_dropout": weight_dropout} if weight_dropout else {}
    parts = {}
    for name in ["network", *(f"network_{n}" for n in range(2, networks + 1))]:
        x = layers.Embedding(characters + text.FIRST, 64, mask_zero=True)(ids)
        for _ in range(depth):
            x = CELLS[cell](units, return_sequences=True, stateful=rows is not None, **drops)(x)
            x = layers.Dropout(dropout)(x)
        parts[name] = layers.Dense(characters, name=name)(x)
    logits = mean(list(parts.values()), "logits")
    return keras.Model(ids, logits), keras.Model(ids, {**parts, "logits": logits})


def with_n_grams(model, ids, train, longest, stateful=False):
    """Returns the model whose logits are the mean of those of n-grams and twice the model's.

    Args:
        model: The model from ids to logits.
        ids: The number of ids.
        train: The ids of the text that is counted.
        longest: The most characters in an n-gram.
        stateful: Whether the model is.
    """
    counts = KneserNey(ids, longest, name="n_grams")
    counts.adapt(train)
    width = longest - 1
    exact = {"dtype": "float32", "trainable": False}  # 16 bits would not hold all ids
    number = layers.Embedding(ids, 1, mask_zero=True, name="number", **exact)
    # The last characters are a state like any other: the server and the streams carry it.
    last = keras_gated.SimpleRNN(
        width,
        activation="linear",
        use_bias=False,
        return_sequences=True,
        stateful=stateful,
        name="last_ids",
        **exact,
    )
    logits = counts(last(number(model.input)))
    number.set_weights([np.arange(ids)[:, None]])
    last.set_weights([np.eye(1, width), np.eye(width, k=1)])  # the newest id moves the others on
    return keras.Model(model.input, mean([model.output, model.output, logits], "with_n_grams"))


def speakers(play):
    """Returns the names in a play's labels, in capitals: words that never occur in lower case."""
    words = set(re.findall(r"[A-Za-z]+", play))
    labels = " ".join(re.findall(r"(?:^|\n\n)([^\n:]+):\n", play))
    names = {name.upper() for name in re.findall(r"[A-Za-z]{3,}", labels)}
    return sorted(name for name in names if name.lower() not in words)


def renamed(play, names, part, seed, speeches=8):
    """Returns a play in which some speakers have new names, made of halves of two other names.

    After a number of speeches the names are drawn anew. So it is no use to remember a name for
    longer.
    """
    draw, known = random.Random(seed), set(names)

    def scene(lines):
        others = {}

        def other(found):
            word, name = found[0], found[0].upper()
            if name not in known or word not in (name, name.capitalize()):
                return word
            if name not in others:
                one, two = draw.choices(names, k=2)
                new = one[: (len(one) + 1) // 2] + two[len(two) // 2 :]
                others[name] = new if draw.random() < part else name
            return others[name] if word == name else others[name].capitalize()

        return re.sub(r"[A-Za-z]+", other, lines)

    parts = play.split("\n\n")
    scenes = [parts[n : n + speeches] for n in range(0, len(parts), speeches)]
    return "\n\n".join(scene("\n\n".join(lines)) for lines in scenes)


def windows(texts, steps, batch_size):
    """Returns the batches of all epochs, and the number of batches of an epoch.

    A row reads on from batch to batch, until the epoch ends. Then it begins with its part of the
    next text. What does not fill a whole window is left out.

    Args:
        texts: Ids, a tensor for each epoch.
    """
    number = (min(map(len, texts)) - 1) // batch_size // steps  # whole windows
    epochs = [
        keras_gated.windows(ids[:-1], ids[1:] - text.FIRST, batch_size=batch_size, steps=steps)
        for ids in texts
    ]
    return functools.reduce(tf.data.Dataset.concatenate, [e.take(number) for e in epochs]), number


class Texts(NamedTuple):
    train: Any  # ids of the training text, as it is
    plays: list  # ids of the training text, once for each draw of the speakers' names
    validation: Any  # ids of the last part of the training split
    held_out: Any  # ids of the other splits
    lookup: Any  # from characters to ids


def texts_of(splits, seed, draws, rename):
    """Returns the `Texts` of a data set.

    Args:
        splits: The splits of the data set by name, each of one text.
        draws: How many times the names of the speakers are drawn.
        rename: The share of speakers that get other names.
    """
    whole = {name: next(iter(s))["text"].numpy().decode() for name, s in splits.items()}
    train, held_out = whole["train"], whole["validation"] + whole["test"]
    cut = len(train) * 39 // 40
    names = speakers(train[:cut])
    seeds = [(seed << 32) + draw for draw in range(draws)]
    plays = [renamed(train[:cut], names, rename, seed) for seed in seeds]
    lookup = text.character_lookup("".join([train, *plays]))

    def ids(characters):
        return lookup(tf.strings.unicode_split(characters, "UTF-8"))

    plays = [ids(play) for play in plays]
    return Texts(ids(train[:cut]), plays, ids(train[cut:]), ids(held_out), lookup)


def streams(ids, rows=8):
    """Returns one batch that covers a held-out text in long rows."""
    steps = (len(ids) - 1) // rows
    if not steps:
        raise SystemExit(
            f"--batch-size: {len(ids)} characters of validation do not fill so many rows. "
            f"Received: {rows}."
        )
    inputs = tf.reshape(ids[: rows * steps], [rows, steps])
    targets = tf.reshape(ids[1 : rows * steps + 1], [rows, steps]) - text.FIRST
    return tf.data.Dataset.from_tensors((inputs, targets))


def dynamic_evaluation(model, ids, steps=20, rate=3e-4):
    """Returns the loss of a text that a stateful model learns from while it reads.

    The loss of a window is measured before the model learns from the window. So no character is
    predicted by weights that have seen it (Mikolov et al. 2010; Krause et al. 2018). A rest of less
    than `steps` characters is left out.
    """
    model.compile(
        keras.optimizers.Adam(rate, beta_2=0.99),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    end = (len(ids) - 1) // steps * steps
    targets = ids[1 : end + 1] - text.FIRST
    data = keras_gated.windows(ids[:end], targets, batch_size=1, steps=steps)
    return model.fit(data, shuffle=False, callbacks=[keras_gated.ResetState()]).history["loss"][0]


def rows_of(strategy, batch_size):
    """Returns the number of rows of a batch that each replica of the model reads."""
    replicas = strategy.num_replicas_in_sync
    rows, rest = divmod(batch_size, replicas)
    if rest:
        raise SystemExit(
            f"--batch-size: must be a multiple of {replicas}, the number of replicas, since each "
            f"reads on in rows of its own. Received: {batch_size}."
        )
    return rows


def main():
    args = arguments()
    strategy = cluster(args)
    rows = rows_of(strategy, args.batch_size)
    splits = datasets.load(args.dataset, args.data_dir, offline="toy_plays")
    keras.utils.set_random_seed(args.seed)  # now: preparing data draws random numbers, too
    texts = texts_of(splits, args.seed, args.epochs, args.rename)
    lookup = texts.lookup
    size = [lookup.vocabulary_size() - text.FIRST, args.cell, args.units, args.layers]
    batches, steps = windows(texts.plays, args.steps, args.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        args.rate / 100, steps * args.epochs, warmup_target=args.rate, warmup_steps=steps // 2
    )
    with strategy.scope():
        networks, _ = build_model(*size, networks=args.networks)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        of_rows, model = build_model(
            *size, args.dropout, args.weight_dropout, args.networks, rows=rows
        )
        model.compile(
            keras.optimizers.Adam(rate, beta_2=0.99, clipnorm=1.0),
            # Each network has its own loss. The mean of their logits is measured, but not trained.
            loss={name: None if name == "logits" else loss for name in model.output},
            metrics={
                "logits": [
                    keras.metrics.SparseCategoricalCrossentropy(name="nats", from_logits=True),
                    "accuracy",
                ]
            },
        )
        writer, counted = networks, (lookup.vocabulary_size(), texts.train, args.n_grams)
        if args.n_grams:
            writer = with_n_grams(networks, *counted)
        writer.compile(loss=loss)
    model.summary()
    best = keras.callbacks.EarlyStopping(
        "val_logits_nats", mode="min", patience=args.epochs, restore_best_weights=True
    )
    *others, interrupt, resume = callbacks(args, model, best, keras_gated.ResetState())

    def for_networks(ids, targets):
        return ids, dict.fromkeys(model.output, targets)

    history = model.fit(
        batches.skip(resume.epoch * steps).map(for_networks),
        steps_per_epoch=steps,
        validation_data=streams(texts.validation, args.batch_size).map(for_networks),
        initial_epoch=resume.epoch,
        epochs=args.epochs,
        callbacks=[*others, interrupt, resume],
        shuffle=False,  # rows go on from batch to batch
    )
    seconds = resume.time()
    networks.set_weights(of_rows.get_weights())
    nats = {"loss_nats": writer.evaluate(streams(texts.held_out))}
    if not strategy.extended.should_checkpoint:
        return

    signatures = generation.characters(writer, lookup)
    saved_model = keras_gated.export_model(
        writer,
        exports(args),
        signatures,
        track=[lookup],
        extras=to_look_inside(networks, "characters", lookup.get_vocabulary()),
    )
    if not interrupt.came:
        resume.finish()
    server = tf.saved_model.load(saved_model).signatures["serving_default"]
    asked = {"prompt": args.prompt, "length": 400, "temperature": 0.8, "top_k": 0}
    asked["seed"] = args.seed
    specs = signatures["generate"].inputs
    sample = server(**{s.name: tf.constant([asked[s.name]], s.dtype) for s in specs})["text"]
    print(args.prompt + sample.numpy()[0].decode())
    if args.dynamic:
        reader, _ = build_model(*size, networks=args.networks, dropout=0, rows=1)
        reader.set_weights(networks.get_weights())
        if args.n_grams:
            reader = with_n_grams(reader, *counted, stateful=True)
        nats["dynamic_loss_nats"] = dynamic_evaluation(reader, texts.held_out)
    report(
        args,
        epochs=history.epoch[-1] + 1,
        seconds=round(seconds, 1),
        **{name: round(value, 4) for name, value in nats.items()},
        bits_per_character=round(nats["loss_nats"] / math.log(2), 4),
        parameters=writer.count_params(),
        saved_model=saved_model,
    )


if __name__ == "__main__":
    main()
