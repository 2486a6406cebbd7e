"""Train a next-character model and export it for serving.

    python examples/characters.py --dataset toy_plays
    TFDS_DATA_DIR=... python examples/characters.py --dataset tiny_shakespeare

A play that was held out has speakers of its own, and who knows the training plays by heart expects
theirs: labels such as "PETRUCHIO:", 8 of 100 characters, are then a sixth of the loss. So in every
epoch some speakers bear names that exist nowhere else, and the network learns to read who speaks
from what it has read.
"""

import math
import pathlib
import random
import re

import keras
import tensorflow as tf
from keras import layers
from training import CELLS, callbacks, parser, positive, report, to_look_inside

import keras_gated
from keras_gated import datasets, generation, text


def arguments():
    p = parser(__doc__, ["tiny_shakespeare", "toy_plays"], units=512, epochs=11, batch_size=32)
    p.add_argument("--steps", type=positive, default=200, help="characters of one training window")
    p.add_argument("--rename", type=float, default=0.5, help="share of speakers, in every epoch")
    p.add_argument("--rate", type=float, default=3e-3, help="the highest learning rate")
    p.add_argument("--dropout", type=float, default=0.25, help="of what a layer puts out")
    p.add_argument("--weight-dropout", type=float, default=0.0, help="of recurrent weights")
    p.add_argument("--prompt", default="\n", help="the printed sample continues it")
    return p.parse_args()


def build_model(characters, cell, units, depth, dropout=0.25, weight_dropout=0.0):
    """Returns a model from ids to the logits of the next character."""
    ids = keras.Input((None,), dtype="int64", name="ids")
    x = layers.Embedding(characters + text.FIRST, 64, mask_zero=True)(ids)
    options = {"return_sequences": True, "recurrent_weight_dropout": weight_dropout}
    for _ in range(depth):
        x = CELLS[cell](units, **options)(x)
        x = layers.Dropout(dropout)(x)
    return keras.Model(ids, layers.Dense(characters, name="logits")(x))


def speakers(play):
    """Returns the names in a play's labels, in capitals: words that are nowhere written small."""
    words = set(re.findall(r"[A-Za-z]+", play))
    labels = " ".join(re.findall(r"(?:^|\n\n)([^\n:]+):\n", play))
    names = {name.upper() for name in re.findall(r"[A-Za-z]{3,}", labels)}
    return sorted(name for name in names if name.lower() not in words)


def renamed(play, share, seed):
    """Returns a play in which a share of the speakers bear half of one name and half of another."""
    draw, names = random.Random(seed), speakers(play)
    others = {}
    for name in names:
        one, other = draw.choices(names, k=2)
        if draw.random() < share:
            others[name] = one[: (len(one) + 1) // 2] + other[len(other) // 2 :]
            others[name.capitalize()] = others[name].capitalize()
    pattern = re.compile(rf"\b({'|'.join(others)})\b")
    return pattern.sub(lambda found: others[found[0]], play) if others else play


def windows(texts, steps, batch_size, seed, number, first=0):
    """Returns endless batches of windows from random places, with the characters after them.

    A window's place depends on the seed and its number alone; the first one has the number `first`.

    Args:
        texts: Ids, a tensor for each epoch.
        number: How many windows an epoch has.
    """
    sizes = tf.constant([len(ids) for ids in texts])
    ids, starts = tf.concat(texts, 0), tf.cumsum(sizes, exclusive=True)

    def window(count):
        epoch = tf.minimum(count // number, len(texts) - 1)
        last = sizes[epoch] - steps
        place = tf.random.stateless_uniform([], [seed, count], 0, last, dtype=tf.int32)
        place += starts[epoch]
        return ids[place : place + steps], ids[place + 1 : place + steps + 1] - text.FIRST

    return tf.data.Dataset.counter(first).map(window).batch(batch_size).prefetch(2)


def streams(ids, rows=8):
    """Returns one batch that covers a held-out text in a few long rows."""
    steps = (len(ids) - 1) // rows
    inputs = tf.reshape(ids[: rows * steps], [rows, steps])
    targets = tf.reshape(ids[1 : rows * steps + 1], [rows, steps]) - text.FIRST
    return tf.data.Dataset.from_tensors((inputs, targets))


def main():
    args = arguments()
    splits = datasets.load(args.dataset, args.data_dir, offline="toy_plays")
    keras.utils.set_random_seed(args.seed)  # now: preparing data draws random numbers, too
    whole = {name: next(iter(s))["text"].numpy().decode() for name, s in splits.items()}
    train, held_out = whole["train"], whole["validation"] + whole["test"]
    cut = len(train) * 39 // 40
    plays = [renamed(train[:cut], args.rename, (args.seed << 32) + n) for n in range(args.epochs)]
    lookup = text.character_lookup("".join([train, *plays]))

    def ids(characters):
        return lookup(tf.strings.unicode_split(characters, "UTF-8"))

    model = build_model(
        lookup.vocabulary_size() - text.FIRST,
        args.cell,
        args.units,
        args.layers,
        args.dropout,
        args.weight_dropout,
    )
    steps = cut // (args.steps * args.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        args.rate / 100, steps * args.epochs, warmup_target=args.rate, warmup_steps=steps // 2
    )
    model.compile(
        keras.optimizers.Adam(rate, beta_2=0.99, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.summary()
    best = keras.callbacks.EarlyStopping(
        "val_loss", patience=args.epochs, restore_best_weights=True
    )
    *others, interrupt, resume = callbacks(args, model, best)
    number = steps * args.batch_size
    history = model.fit(
        windows(
            [ids(play) for play in plays],
            args.steps,
            args.batch_size,
            args.seed,
            number,
            resume.epoch * number,
        ),
        steps_per_epoch=steps,
        validation_data=streams(ids(train[cut:])),
        initial_epoch=resume.epoch,
        epochs=args.epochs,
        callbacks=[*others, interrupt, resume],
        shuffle=False,  # the batches are
    )
    seconds = resume.time()
    nats, _ = model.evaluate(streams(ids(held_out)))

    signatures = generation.characters(model, lookup)
    saved_model = keras_gated.export_model(
        model,
        pathlib.Path(args.output, args.name or args.dataset),
        signatures,
        track=[lookup],
        extras=to_look_inside(model, "characters", lookup.get_vocabulary()),
    )
    if not interrupt.came:
        resume.finish()
    server = tf.saved_model.load(saved_model).signatures["serving_default"]
    asked = {"prompt": args.prompt, "length": 400, "temperature": 0.8, "top_k": 0}
    asked["seed"] = args.seed
    specs = signatures["generate"].inputs
    sample = server(**{s.name: tf.constant([asked[s.name]], s.dtype) for s in specs})["text"]
    print(args.prompt + sample.numpy()[0].decode())
    report(
        args,
        epochs=history.epoch[-1] + 1,
        seconds=round(seconds, 1),
        loss_nats=round(nats, 4),
        bits_per_character=round(nats / math.log(2), 4),
        parameters=model.count_params(),
        saved_model=saved_model,
    )


if __name__ == "__main__":
    main()
