"""The model of `vowels.py` in PyTorch: `torch.nn` reads packed sequences and skips all padding."""

import copy
import time

import torch
from torch.nn.utils import rnn

import keras_gated


class Classifier(torch.nn.Module):
    def __init__(self, recurrent, linear, mean, scale, dropout):
        super().__init__()
        self.recurrent, self.linear = recurrent, linear
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.channels = torch.nn.Dropout1d(dropout / 2)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, series, lengths):
        x = self.channels(((series - self.mean) / self.scale).transpose(1, 2)).transpose(1, 2)
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return self.linear(self.dropout(outputs.sum(1) / lengths[:, None]))


def of_keras(model, dropout):
    """Returns the classifier with the weights of a model of `vowels.py`."""
    [normalization] = [layer for layer in model.layers if layer.name.startswith("normalization")]
    kernel, bias = model.get_layer("speaker").get_weights()
    linear = torch.nn.Linear(*kernel.shape)
    linear.load_state_dict({"weight": torch.tensor(kernel.T), "bias": torch.tensor(bias)})
    mean, variance = (torch.tensor(value) for value in normalization.get_weights()[:2])
    recurrent = keras_gated.to_torch(model.get_layer("recurrent"))
    return Classifier(recurrent, linear, mean, variance.sqrt(), dropout)


def fit(classifier, train, validation, epochs, learning_rate, largest_norm):
    """Trains, and keeps the epoch of least validation loss. Returns the same as `vowels.fit`."""
    optimizer = torch.optim.Adam(classifier.parameters(), learning_rate, eps=1e-7)  # Keras's
    seconds, best, found = [], {"loss": float("inf")}, {}
    for epoch in range(epochs):
        start = time.perf_counter()
        classifier.train()
        for series, lengths, labels in tensors(train):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(classifier(series, lengths), labels).backward()
            torch.nn.utils.clip_grad_norm_(classifier.parameters(), largest_norm)
            optimizer.step()
        seconds.append(time.perf_counter() - start)
        now = evaluate(classifier, validation)
        print(f"PyTorch, epoch {epoch + 1}: {now}", flush=True)
        if now["loss"] < best["loss"]:
            best, weights = now, copy.deepcopy(classifier.state_dict())
            found = {"best_epoch": epoch + 1, "validation_accuracy": round(now["accuracy"], 4)}
    classifier.load_state_dict(weights)
    return seconds, found


@torch.no_grad()
def evaluate(classifier, batches):
    """Returns the mean loss and the accuracy."""
    classifier.eval()
    rows = losses = right = 0
    for series, lengths, labels in tensors(batches):
        logits = classifier(series, lengths)
        losses += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
        rows += len(labels)
    return {"loss": losses / rows, "accuracy": right / rows}


def tensors(batches):
    for x, labels in batches.as_numpy_iterator():
        yield *(torch.tensor(x[name]) for name in ("series", "lengths")), torch.tensor(labels)
