"""Look inside a trained sentiment or character model while it reads your texts.

    python examples/look_inside.py saved_models/sentiment "Not a great film, but I enjoyed it."
    python examples/look_inside.py saved_models/shakespeare "ROMEO:\\nBut soft, what light" ...

Writes OUTPUT/index.html, a page that needs no other files, and a picture of each text (text-1.png,
...) if matplotlib is installed. MODEL is a directory that a training script exported to; its newest
version is used. `\\n` in a text for a character model is a line break.
"""

import base64
import json
import math
import pathlib
import sys

import quiet_tensorflow  # noqa: F401
import keras
import numpy as np
from argument_types import command_line, folder, readable
from ask import DAMAGED, newest_version
from pictures import picture

import keras_gated
from keras_gated.inside.trace import named
from keras_gated.recipes import text

TEMPLATE = pathlib.Path(__file__).with_suffix(".html")
SPOKEN = {"network": "the network", "networks": "the networks", "n_grams": "the n-grams"}


def load(directory):
    """Returns the Keras model and the reader of the newest version in a directory."""
    beside = newest_version(directory) / "assets.extra"
    if not (beside / "reader.json").exists():
        sys.exit(
            f"{directory} holds no Keras model to look into, {beside}/model.keras. "
            "`examples/sentiment.py` and `examples/characters.py` write one when they export."
        )
    try:
        reader = json.loads((beside / "reader.json").read_text())
        return keras.models.load_model(beside / "model.keras"), reader
    except DAMAGED as error:
        sys.exit(f"{beside} holds a model that does not load: {error}")


def read(reader, written):
    """Returns the tokens of a text as the model reads them, and their ids."""
    if reader["kind"] == "sentiment":
        tokens = text.clean([written]).numpy()[0].decode(errors="replace").split()
        head, tail = reader["head"], reader["tail"]
        if len(tokens) > head + tail:
            tokens = tokens[:head] + tokens[-tail:]
    else:
        tokens = list(written)
    ids = {token: place for place, token in enumerate(reader["vocabulary"])}
    tokens = tokens or ["\n"]
    return tokens, np.array([[ids.get(token, text.UNKNOWN) for token in tokens]])


def parts_of(model):
    """Returns the parts whose mean is a review's logit: name to (output, share) of each part.

    The result is empty if the model is a single network.
    """
    if "review" not in [layer.name for layer in model.layers]:
        return {}
    averaged = model.get_layer("review").input
    shares = {
        layer.name: sum(logit is layer.output for logit in averaged) / len(averaged)
        for layer in model.layers
    }
    return {name: (model.get_layer(name).output, share) for name, share in shares.items() if share}


def look_at_review(model, tokens, ids):
    """Returns the running prediction, its parts, the verdict, and a model and target for a loss."""
    parts = parts_of(model)
    outputs = {"probability": model.output, **{name: part for name, (part, _) in parts.items()}}
    # The review up to each word, followed by padding.
    prefixes = np.tril(np.repeat(ids, len(tokens), 0))
    found = keras.Model(model.input, outputs).predict(prefixes, verbose=0)
    found = {name: values[:, 0] for name, values in found.items()}
    running = found["probability"]
    before = [0.5, *running[:-1]]
    said = [
        f"Probability of a positive review so far: {p:.3f} ({p - q:+.3f})"
        for p, q in zip(running, before, strict=True)
    ]
    model.compile(loss="binary_crossentropy")
    answer = f"{'positive' if running[-1] >= 0.5 else 'negative'}, {running[-1]:.3f}"
    shown = [
        {"name": SPOKEN.get(name, name), "share": share, "logits": list(map(float, found[name]))}
        for name, (_, share) in parts.items()
    ]
    return list(map(float, running)), shown, said, answer, model, np.round(running[-1:, None])


def look_at_characters(model, tokens, ids, vocabulary):
    """As `look_at_review`. The prediction is the probability of each character; no parts."""
    probabilities = keras.ops.softmax(model.predict(ids, verbose=0))[0].numpy()
    targets = ids[0] - text.FIRST
    running = [
        None,
        *(
            float(p[i]) if i >= 0 else 0.0
            for p, i in zip(probabilities[:-1], targets[1:], strict=True)
        ),
    ]
    said = []
    for given, p in zip(running, probabilities, strict=True):
        likely = ", ".join(f"{vocabulary[i + text.FIRST]!r} {p[i]:.2f}" for i in np.argsort(-p)[:5])
        seen = "" if given is None else f"Was expected with {given:.3f}. "
        said.append(f"{seen}Expected next: {likely}")
    nats = [-math.log(p) for p in running[1:] if p]
    answer = f"{np.mean(nats):.2f} nats a character" if nats else "one character"
    last = keras.Model(model.input, model.output[:, -1])
    last.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return running, [], said, answer, last, probabilities[-1:].argmax(-1)


def reads_backwards(model, name):
    """Whether a layer, or a direction of a `Bidirectional`, begins at the end of a text."""
    layer, _, direction = name.partition("/")
    layer = model.get_layer(layer)
    return bool((getattr(layer, f"{direction}_layer") if direction else layer).go_backwards)


def look(model, reader, written):
    """Returns everything that the page shows about a text, as numbers and strings."""
    tokens, ids = read(reader, written)
    if reader["kind"] == "sentiment":
        looked = look_at_review(model, tokens, ids)
    else:
        looked = look_at_characters(model, tokens, ids, reader["vocabulary"])
    running, parts, said, answer, with_loss, target = looked
    gates = dict(named(keras_gated.trace_gates(model, ids)))
    flows = dict(named(keras_gated.gradient_flow(with_loss, ids, target, contributions=False)))
    return {
        "tokens": tokens,
        "unknown": [bool(i == text.UNKNOWN) for i in ids[0]],
        "prediction": running,
        "parts": parts,
        "said": said,
        "answer": answer,
        "layers": [
            {
                "name": name,
                "backwards": reads_backwards(model, name),
                "gates": {gate: np.asarray(values)[0] for gate, values in gates[name].items()},
                "gradient": {
                    state: np.asarray(norm)[0]
                    for state, norm in (("h", flows[name].hidden), ("c", flows[name].memory))
                    if norm is not None
                },
            }
            for name in gates
        ],
    }


def page(title, kind, texts):
    """Returns the report: the template with all data in it."""

    def packed(values):  # 16 bits a number: the eye cannot see finer differences
        scale = float(np.abs(values).max()) / 32767 or 1.0
        integers = np.round(values / scale).astype("<i2")
        return {"scale": scale, "data": base64.b64encode(integers.tobytes()).decode()}

    def layer(looked):
        gates = {gate: packed(values) for gate, values in looked["gates"].items()}
        gradient = {
            state: [float(f"{v:.4g}") for v in n] for state, n in looked["gradient"].items()
        }
        units = next(iter(looked["gates"].values())).shape[-1]
        return {**looked, "units": units, "gates": gates, "gradient": gradient}

    data = {
        "model": title,
        "kind": kind,
        "ends": ["negative", "positive"] if kind == "sentiment" else ["unexpected", "expected"],
        "gradient": gradient_help(kind, texts[0]["layers"]),
        "texts": [{**t, "layers": [layer(one) for one in t["layers"]]} for t in texts],
    }
    # A `<` in the data must not end the script element, or begin another.
    embedded = json.dumps(data).replace("<", "\\u003c")
    return TEMPLATE.read_text().replace("/*DATA*/", embedded)


def gradient_help(kind, layers):
    """Returns the text below the page's plot of the gradient."""
    answer = "own answer" if kind == "sentiment" else "likeliest next character"
    said = (
        f"Norm of the derivative of the loss of the model's {answer} by the state after each step."
    )
    if not all(layer["backwards"] for layer in layers):
        said += " Where a line falls to the left, what came early teaches it little."
    if backwards := [layer["name"] for layer in layers if layer["backwards"]]:
        said += (
            f" {' and '.join(backwards)} begins at the end of the text and reads to the left: "
            "where its line falls to the right, what stands late teaches it little."
        )
    return said


def plot(looked, path):
    """Draws the gates of a text's last layer over its steps, and the gradient's path."""
    from matplotlib import pyplot as plt

    layer = looked["layers"][-1]
    tokens, gates = looked["tokens"], layer["gates"]
    width = min(16, max(6, 0.28 * len(tokens)))
    figure, axes = plt.subplots(
        len(gates) + 1,
        1,
        figsize=(width, 1.3 * len(gates) + 2.2),
        sharex=True,
        layout="constrained",
    )
    for axis, (name, values) in zip(axes, gates.items(), strict=False):
        signed = name in ("candidate", "memory", "hidden")
        most = np.abs(values).max() if signed else 1
        image = axis.imshow(
            values.T, aspect="auto", interpolation="nearest",
            cmap="RdBu" if signed else "Blues", vmin=-most if signed else 0, vmax=most,
        )  # fmt: skip
        axis.set(title=name, ylabel="unit")
        figure.colorbar(image, ax=axis, pad=0.01)
    for one in looked["layers"]:
        for state, norms in one["gradient"].items():
            axes[-1].semilogy(np.maximum(norms, 1e-30), label=f"{one['name']}, dL/d{state}")
    axes[-1].set(title="norm of the gradient by the state after each step")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")  # beside the lines
    axes[-1].grid(alpha=0.3)
    if len(tokens) <= 60:
        shown = [repr(t)[1:-1] if t.isspace() else t.replace("$", r"\$") for t in tokens]
        words = max(map(len, tokens)) > 1
        axes[-1].set_xticks(
            range(len(tokens)), shown, rotation=90 if words else 0, fontsize="small"
        )
    else:
        axes[-1].set_xlabel("step")
    figure.suptitle(f"{layer['name']}: {looked['answer']}")
    figure.savefig(path)
    plt.close(figure)


def main():
    p = command_line(__doc__)
    p.add_argument("model", metavar="MODEL")
    p.add_argument("text", metavar="TEXT", type=readable, nargs="+")
    p.add_argument(
        "--output", type=folder, default="look_inside", help="a directory; default: look_inside"
    )
    args = p.parse_args()

    model, reader = load(args.model)
    written = args.text
    if reader["kind"] == "characters":
        written = [one.replace("\\n", "\n") for one in written]
    texts = [look(model, reader, one) for one in written]
    output = pathlib.Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "index.html").write_text(page(args.model, reader["kind"], texts))
    for number, looked in enumerate(texts, start=1):
        path = output / f"text-{number}.png"
        drawn = picture(plot, looked, path=path)
        print(f"{path}  {looked['answer']}" if drawn else looked["answer"])
    print(f"{output}/index.html")


if __name__ == "__main__":
    main()
