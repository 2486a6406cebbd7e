"""Train a sentiment classifier on film reviews and export it for serving.

    python examples/sentiment.py --dataset toy_reviews
    TFDS_DATA_DIR=... python examples/sentiment.py --dataset imdb_reviews
    python examples/cluster.py --workers 2 examples/sentiment.py --dataset toy_reviews

Two parts judge a review, each trained by itself, and their logits are averaged. One is a recurrent
network that reads the words in both directions and averages what it remembers at each of them. The
other sums the weights of the n-grams of one to three words (Wang and Manning 2012). It counts
twice: with three quarters of the mean the validation loss would be as small, but denials would be
read worse. The n-grams soon know the training texts by heart, and would leave a network that is
trained on the mean nothing to learn.

Reviews alone do not teach the network to negate: few of them hang on a "not". So it also reads
short texts that are made of the training reviews by rule (`recipes.edits`), in which one word
decides, said or denied. And it reads reviews in which words gave way to their opposites, with the
other label (`recipes.opposites`): what a film is about decides less then. `challenge.py` tries what
it learned.
"""

import argparse
import pathlib

import quiet_tensorflow  # noqa: F401
import challenge
import keras
import tensorflow as tf
from argument_types import integer, positive, share, text_file, whole
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
from keras_gated.recipes import classification, text
from keras_gated.recipes.edits import Edits
from keras_gated.recipes.ngrams import NGrams
from keras_gated.recipes.opposites import Opposites

EDITS = {"imdb_reviews": 60_000, "toy_reviews": 0}


def arguments():
    p = parser(__doc__, ["imdb_reviews", "toy_reviews"], units=32, epochs=8)
    p.add_argument("--vocabulary", type=integer(3), default=8_000, help="number of words")
    p.add_argument(
        "--names",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read names; if not, words that mostly have a capital are unknown words",
    )
    p.add_argument(
        "--buckets", type=whole, default=110_017, help="for n-grams; 0: the network alone"
    )
    p.add_argument(
        "--edits",
        type=whole,
        help="short texts made of the training texts by rule, and with any of them all reviews "
        "that can be turned; default: "
        + ", ".join(f"{number:,} for {name}" for name, number in EDITS.items()),
    )
    p.add_argument(
        "--exclude",
        metavar="FILE",
        type=text_file,
        help="texts to leave out of training, one in each line, matched by "
        "their letters; of a line with tabs, the longest field",
    )
    p.add_argument(
        "--held-out",
        type=share,
        default=0.1,
        help="share of the training texts that chooses the epoch, if the data set has no "
        "validation texts; 0: all texts are trained on, for --epochs epochs",
    )
    p.add_argument("--networks", type=positive, default=1, help="networks that judge together")
    p.add_argument(
        "--dropout",
        type=share,
        default=0.5,
        help="of features and of n-grams in training",
    )
    p.add_argument(
        "--max-words", type=positive, default=1000, help="longer texts lose their middle"
    )
    args = parsed(p)
    args.edits = EDITS[args.dataset] if args.edits is None else args.edits
    return args


def build_model(words, cell, units, depth, buckets=0, networks=1, dropout=0.5):
    """Returns the model from ids to a probability, and the one from ids to logits that is trained.

    The second has the outputs `network` (and `network_2`, ...), `n_grams` if there are `buckets`,
    and `review`: the mean of the logit of the networks together and twice that of the n-grams.
    """
    ids = keras.Input((None,), dtype="int64", name="ids")
    names = ["network", *(f"network_{n}" for n in range(2, networks + 1))]
    parts = {name: network(ids, words, cell, units, depth, dropout, name) for name in names}
    review = [mean(list(parts.values()), "networks")]
    if buckets:
        parts["n_grams"] = NGrams(words, buckets, dropout=dropout, name="n_grams")(ids)
        review += 2 * [parts["n_grams"]]
    review = mean(review, "review")
    probability = layers.Activation("sigmoid", name="probability")(review)
    return keras.Model(ids, probability), keras.Model(ids, {**parts, "review": review})


def network(ids, words, cell, units, depth, dropout, name):
    """Returns the logit of a recurrent network that reads the words in both directions."""
    x = layers.Embedding(words, 64, mask_zero=True)(ids)
    x = layers.SpatialDropout1D(dropout)(x)
    for _ in range(depth):
        x = layers.Bidirectional(CELLS[cell](units, return_sequences=True))(x)
    x = layers.GlobalAveragePooling1D()(x)  # over the words, not over the padding
    return layers.Dense(1, name=name)(layers.Dropout(dropout)(x))


def compiled(model):
    """Compiles a model of logits: each part has its own loss, and their mean is only measured."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    measured = [
        keras.metrics.BinaryAccuracy(threshold=0, name="accuracy"),
        keras.metrics.BinaryCrossentropy(from_logits=True, name="nats"),
    ]
    model.compile(
        # The moving average of the weights is what is validated, tested and exported.
        keras.optimizers.Adam(2e-3, clipnorm=1.0, use_ema=True, ema_momentum=0.99),
        loss={name: None if name == "review" else loss for name in model.output},
        metrics={"review": measured},
    )


def edited(reviews, number, seed):
    """Returns texts made of reviews by rule, a data set of `text` and `label`.

    These are a number of short texts, and the reviews that can be turned. None is a text of
    `challenge.py`.
    """
    rows = [(row["text"], row["label"]) for row in reviews.as_numpy_iterator()]
    asked = text.clean([asked for case in challenge.cases() for asked in case.texts]).numpy()
    asked = {tuple(words.decode().split()) for words in asked}
    reviews, labels = zip(*rows, strict=True)
    drawn = [*Edits(reviews, labels).draw(number, seed), *Opposites(reviews, labels).turned(seed)]
    texts, labels = zip(*((t, label) for t, label in drawn if tuple(t) not in asked), strict=True)
    return tf.data.Dataset.from_tensor_slices(
        {"text": [" ".join(words) for words in texts], "label": tf.constant(labels, tf.int64)}
    )


def main():
    args = arguments()
    strategy = cluster(args)
    splits = datasets.load(args.dataset, args.data_dir, offline="toy_reviews")
    keras.utils.set_random_seed(args.seed)  # now: preparing data draws random numbers, too
    train, test = splits["train"], splits["test"]
    if args.exclude:
        number = int(train.cardinality())
        train = text.without(train, pathlib.Path(args.exclude).read_text("utf-8").split("\n"))
        print(
            f"Left out {number - int(train.cardinality())} of {number} texts of the training split"
        )
    validation = splits.get("validation")
    if args.held_out and validation is None:
        texts = int(train.cardinality())
        number = int(args.held_out * texts)
        if not 0 < number < texts:
            raise SystemExit(
                f"--held-out: some texts must be held out, and some trained on. Received: "
                f"{args.held_out} of {texts} texts. 0 trains on all."
            )
        train, validation = train.skip(number), train.take(number)

    texts = train.map(lambda x: x["text"]).batch(1024)
    names = () if args.names else text.capitalized(texts)
    vectorizer = text.word_vectorizer(texts, args.vocabulary, without=names)

    tail = args.max_words * 2 // 3
    head = args.max_words - tail

    def read(texts):
        return text.head_and_tail(vectorizer(texts), head, tail)

    def rows(reviews, whole=True):
        """Returns ids with two numbers: the label, and whether the text is a whole review."""

        def row(x):
            label = tf.cast(x["label"], tf.int64)
            return read(x["text"]), tf.stack([label, int(whole) * tf.ones_like(label)], axis=1)

        return reviews.batch(1024).map(row).unbatch()

    def for_parts(ids, labels):
        label, whole = tf.split(tf.cast(labels, tf.float32), 2, axis=1)
        weights = dict.fromkeys(model.output, tf.ones_like(whole))
        if args.buckets:  # made-up texts would take the n-grams away from the reviews
            weights["n_grams"] = whole
        return ids, dict.fromkeys(model.output, label), weights

    def bucketed(reviews):
        return text.bucketed(rows(reviews), args.batch_size).map(for_parts)

    with strategy.scope():
        classifier, model = build_model(
            vectorizer.vocabulary_size(),
            args.cell,
            args.units,
            args.layers,
            args.buckets,
            args.networks,
            args.dropout,
        )
        compiled(model)
    if args.buckets:
        model.get_layer("n_grams").adapt(
            train.batch(1024).map(lambda x: (text.dense(read(x["text"])), x["label"]))
        )
    training_rows = rows(train)
    if args.edits:
        edits = edited(train, args.edits, args.seed)
        training_rows = training_rows.concatenate(rows(edits, whole=False))
    model.summary()
    average = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    # Without texts held out, all epochs are trained: the loss in training goes on falling.
    measure, patience = ("val_review_nats", 2) if args.held_out else ("loss", args.epochs)
    best = keras.callbacks.EarlyStopping(
        measure, mode="min", patience=patience, restore_best_weights=True
    )
    *others, interrupt, resume = callbacks(args, model, best, average)
    epochs = range(resume.epoch, args.epochs)
    batches, steps = text.shuffled_buckets(training_rows, args.batch_size, args.seed, epochs)
    history = model.fit(
        batches.map(for_parts),
        steps_per_epoch=steps,
        validation_data=bucketed(validation) if args.held_out else None,
        initial_epoch=resume.epoch,
        epochs=args.epochs,
        callbacks=[*others, interrupt, resume],
        shuffle=False,  # the batches are
    )
    seconds = resume.time()
    tested = model.evaluate(bucketed(test), return_dict=True)
    if not strategy.extended.should_checkpoint:
        return

    saved_model = keras_gated.export_model(
        classifier,
        exports(args),
        classification.sentiment(classifier, vectorizer, head, tail),
        track=[vectorizer],
        extras=to_look_inside(
            classifier, "sentiment", vectorizer.get_vocabulary(), head=head, tail=tail
        ),
    )
    if not interrupt.came:
        resume.finish()
    report(
        args,
        epochs=history.epoch[-1] + 1,
        seconds=round(seconds, 1),
        test_loss=round(tested["review_nats"], 4),
        test_accuracy=round(tested["review_accuracy"], 4),
        parameters=model.count_params(),
        saved_model=saved_model,
    )


if __name__ == "__main__":
    main()
