"""Train an LSTM in PyTorch, and serve it with TensorFlow Serving: the same answers.

    pip install 'keras_gated[examples,torch,onnx,litert]'
    python examples/convert.py --dataset toy_reviews

A sentiment classifier is trained in PyTorch alone. Its weights then stand in a Keras model of our
layers, which is exported as a SavedModel that takes text, and written as ONNX and for LiteRT. Every
one of them is asked about the reviews of the test split, and compared with PyTorch.
"""

import argparse
import json
import pathlib
import time

import quiet_tensorflow  # noqa: F401
import keras
import numpy as np
import tensorflow as tf
import torch
from training import positive

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
            loss = loss_of(classifier(torch.from_numpy(ids)), torch.from_numpy(labels).float())
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
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--dataset", choices=["imdb_reviews", "toy_reviews"], default="imdb_reviews")
    p.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    p.add_argument("--units", type=positive, default=64)
    p.add_argument("--epochs", type=positive, default=3)
    p.add_argument("--output", default="saved_models", type=pathlib.Path)
    p.add_argument("--name", default="from_torch")
    args = p.parse_args()
    torch.manual_seed(1)
    keras.utils.set_random_seed(1)
    splits = datasets.load(args.dataset, args.data_dir, offline="toy_reviews")
    vectorizer = text.word_vectorizer(splits["train"].map(lambda x: x["text"]).batch(1024), 10_000)

    def batches(split):
        rows = (
            splits[split]
            .batch(1024)
            .map(lambda x: (text.head_and_tail(vectorizer(x["text"]), HEAD, TAIL), x["label"]))
        )
        rows = rows.unbatch().filter(lambda ids, label: tf.size(ids) > 0)
        return list(text.bucketed(rows, 64).as_numpy_iterator())

    classifier = Classifier(vectorizer.vocabulary_size(), args.units)
    training = batches("train")
    np.random.default_rng(1).shuffle(training)
    start = time.time()
    train(classifier, training, args.epochs)
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

    server = tf.saved_model.load(path).signatures["serving_default"]
    right, number, differences = 0, 0, {"keras": 0.0, "onnx": 0.0, "served": 0.0}
    runtime = _runtime(onnx)
    for ids, labels in batches("test"):
        with torch.no_grad():
            expected = torch.sigmoid(classifier(torch.from_numpy(ids))).numpy()
        answers = {
            "keras": model(ids).numpy()[:, 0],
            "onnx": runtime.run(None, {"ids": ids})[0][:, 0],
        }
        for name, answer in answers.items():
            differences[name] = max(differences[name], float(abs(answer - expected).max()))
        right, number = right + int(((expected > 0.5) == labels).sum()), number + len(labels)
    texts = [x["text"].numpy() for x in splits["test"].take(64)]
    ids = text.dense(text.head_and_tail(vectorizer(tf.constant(texts)), HEAD, TAIL)).numpy()
    with torch.no_grad():
        expected = torch.sigmoid(classifier(torch.from_numpy(ids))).numpy()
    served = server(text=tf.constant(texts))["probability"].numpy().reshape(-1)
    differences["served"] = float(abs(served - expected).max())
    differences["litert"] = litert.difference
    results = {
        "dataset": args.dataset,
        "test_accuracy": round(right / number, 4),
        "seconds": round(seconds, 1),
        "largest_difference_from_torch": {n: float(f"{d:.1e}") for n, d in differences.items()},
        "saved_model": path,
        "onnx": onnx,
        "litert": litert.path,
    }
    print(json.dumps(results))


def _runtime(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
