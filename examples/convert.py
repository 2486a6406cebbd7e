"""Train a model in PyTorch or Keras 2, and serve it with TensorFlow Serving: the same answers.

    pip install 'keras_gated[examples,torch,onnx,litert]' tf_keras
    python examples/convert.py --dataset toy_reviews
    python examples/convert.py --dataset toy_reviews --source keras2

A sentiment classifier is trained in PyTorch alone. Its weights are copied into a Keras model of our
layers, which is exported as a SavedModel that takes text, and written as ONNX and for LiteRT. Each
of these classifies the reviews of the test split, and is compared with PyTorch.

With `--source keras2` the model is an old file, as training on a GPU wrote it: a `.h5` of Keras 2
with a `CuDNNLSTM` (`old_model.py`). Today's Keras does not load it. `from_keras` does, and the
export answers as the original.
"""

import json
import pathlib
import time

import quiet_tensorflow  # noqa: F401
import keras
import numpy as np
import old_model
import tensorflow as tf
import torch
from argument_types import command_line, positive, require_folder

import keras_gated
from keras_gated import datasets
from keras_gated.recipes import classification, text

HEAD, TAIL = 80, 160  # words kept of a longer review


class Classifier(torch.nn.Module):
    def __init__(self, words, units):
        super().__init__()
        self.embedding = torch.nn.Embedding(words, 32)
        self.lstm = torch.nn.LSTM(32, units, batch_first=True, bidirectional=True)
        self.linear = torch.nn.Linear(2 * units, 1)

    def forward(self, ids):
        lengths = (ids != text.PADDING).sum(1)
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            self.embedding(ids), lengths, batch_first=True, enforce_sorted=False
        )
        _, (hidden, _) = self.lstm(packed)
        return self.linear(torch.cat([hidden[0], hidden[1]], dim=1))[:, 0]


def train(classifier, batches, epochs):
    optimizer = torch.optim.Adam(classifier.parameters(), 3e-3)
    loss_of = torch.nn.BCEWithLogitsLoss()
    for epoch in range(epochs):
        losses = []
        for ids, labels in batches:
            optimizer.zero_grad()
            loss = loss_of(classifier(torch.tensor(ids)), torch.tensor(labels).float())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        print(f"PyTorch, epoch {epoch + 1}: {np.mean(losses):.3f} nats", flush=True)


def converted(classifier):
    """Returns the Keras model with PyTorch's weights."""
    weights = {name: value.numpy() for name, value in classifier.state_dict().items()}
    ids = keras.Input((None,), dtype="int64", name="ids")
    table = weights["embedding.weight"]
    embedding = keras.layers.Embedding(*table.shape, mask_zero=True)
    lstm = keras_gated.from_torch(
        {n: v for n, v in weights.items() if n.startswith("lstm.")},
        prefix="lstm.",
        return_sequences=False,
    )
    linear = keras.layers.Dense(1, activation="sigmoid", name="probability")
    model = keras.Model(ids, linear(lstm(embedding(ids))))
    embedding.set_weights([table])
    linear.set_weights([weights["linear.weight"].T, weights["linear.bias"]])
    return model


def main():
    p = command_line(__doc__)
    p.add_argument("--dataset", choices=["imdb_reviews", "toy_reviews"], default="imdb_reviews")
    p.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    p.add_argument("--units", type=positive, default=64)
    p.add_argument("--epochs", type=positive, default=3)
    p.add_argument("--output", default="saved_models", type=pathlib.Path)
    p.add_argument("--source", choices=["torch", "keras2"], default="torch")
    p.add_argument("--name", help="of the exported model; default: from_torch or from_keras2")
    args = p.parse_args()
    args.name = args.name or f"from_{args.source}"
    require_folder(p, args.output, args.name)
    torch.manual_seed(1)
    keras.utils.set_random_seed(1)
    splits = datasets.load(args.dataset, args.data_dir, offline="toy_reviews")
    vectorizer = text.word_vectorizer(splits["train"].map(lambda x: x["text"]).batch(1024), 10_000)
    story = from_torch if args.source == "torch" else from_keras2
    results = story(args, splits, vectorizer)
    told = {n: float(f"{d:.1e}") for n, d in results["largest_difference"].items()}
    print(json.dumps({"dataset": args.dataset, **results, "largest_difference": told}))


def batches_of(split, vectorizer, size):
    """Returns batches of padded word ids and labels, of similar lengths, in a random order."""
    rows = split.batch(1024).map(
        lambda x: (text.head_and_tail(vectorizer(x["text"]), HEAD, TAIL), x["label"])
    )
    rows = rows.unbatch().filter(lambda ids, label: tf.size(ids) > 0)
    found = list(text.bucketed(rows, size).as_numpy_iterator())
    np.random.default_rng(1).shuffle(found)
    return found


def from_torch(args, splits, vectorizer):
    """Trains in PyTorch, converts, exports. Returns what to print."""
    classifier = Classifier(vectorizer.vocabulary_size(), args.units)
    start = time.time()
    train(classifier, batches_of(splits["train"], vectorizer, 64), args.epochs)
    seconds = time.time() - start

    model = converted(classifier.eval())
    path = keras_gated.export_model(
        model,
        args.output / args.name,
        classification.sentiment(model, vectorizer, HEAD, TAIL),
        track=[vectorizer],
    )
    onnx = keras_gated.to_onnx(model, args.output / args.name / "model.onnx")
    litert = keras_gated.to_litert(model, args.output / args.name / "model.tflite", steps=200)

    def theirs(ids):
        with torch.no_grad():
            return torch.sigmoid(classifier(torch.tensor(ids))).numpy()

    runtime = _runtime(onnx)
    answers = {
        "keras": lambda ids: model(ids).numpy()[:, 0],
        "onnx": lambda ids: runtime.run(None, {"ids": ids})[0][:, 0],
    }
    accuracy, differences = compare(batches_of(splits["test"], vectorizer, 64), theirs, answers)
    differences["served"] = served_difference(path, splits["test"], vectorizer, theirs)
    differences["litert"] = litert.difference
    return {
        "test_accuracy": accuracy,
        "seconds": round(seconds, 1),
        "largest_difference": differences,
        "saved_model": path,
        "onnx": onnx,
        "litert": litert.path,
    }


def from_keras2(args, splits, vectorizer):
    """Writes a file as old as `CuDNNLSTM`, converts, exports. Returns what to print."""
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / f"{args.name}.h5"
    widened = [
        (np.pad(ids, ((0, 0), (0, HEAD + TAIL - ids.shape[1]))), labels)
        for ids, labels in batches_of(splits["train"], vectorizer, 64)
    ]
    original = old_model.write(file, vectorizer.vocabulary_size(), args.units, widened, args.epochs)
    try:
        keras.saving.load_model(file)
    except (TypeError, ValueError) as error:
        print(f"Keras {keras.__version__}: {str(error).splitlines()[0][:80]}")

    model = keras_gated.from_keras(file, check=True)
    path = keras_gated.export_model(
        model,
        args.output / args.name,
        old_model.signatures(model, vectorizer, HEAD, TAIL),
        track=[vectorizer],
    )

    def theirs(ids):
        ids = np.pad(ids, ((0, 0), (0, HEAD + TAIL - ids.shape[1])))
        return original.predict_on_batch(ids)[:, 0]

    accuracy, differences = compare(batches_of(splits["test"], vectorizer, 64), theirs, {})
    differences["served"] = served_difference(path, splits["test"], vectorizer, theirs)
    return {
        "test_accuracy": accuracy,
        "largest_difference": differences,
        "old_file": str(file),
        "saved_model": path,
    }


def compare(batches, theirs, answers):
    """Returns the accuracy of the original, and each model's largest difference from it."""
    right, number, differences = 0, 0, dict.fromkeys(answers, 0.0)
    for ids, labels in batches:
        expected = theirs(ids)
        for name, answer in answers.items():
            differences[name] = max(differences[name], float(abs(answer(ids) - expected).max()))
        right, number = right + int(((expected > 0.5) == labels).sum()), number + len(labels)
    return round(right / number, 4), differences


def served_difference(path, split, vectorizer, theirs):
    """Returns the largest difference of an export's answers to texts from the original's."""
    server = tf.saved_model.load(path).signatures["serving_default"]
    texts = [x["text"].numpy() for x in split.take(64)]
    ids = text.dense(text.head_and_tail(vectorizer(tf.constant(texts)), HEAD, TAIL)).numpy()
    served = server(text=tf.constant(texts))["probability"].numpy().reshape(-1)
    return float(abs(served - theirs(ids)).max())


def _runtime(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
