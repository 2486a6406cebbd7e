"""Ask an exported model, without importing keras_gated.

    python examples/ask.py saved_models/sentiment "Not dull at all, a moving film."
    python examples/ask.py saved_models/toy_plays "ALMA:" --length 200 --temperature 0.7

DIRECTORY is a version, or the directory of a model. For a model the newest version answers.
"""

import os
import pathlib
import sys
import zipfile

import quiet_tensorflow  # noqa: F401
import tensorflow as tf
from argument_types import command_line, finite, int32, int64, readable

# What libraries raise for a file that is damaged or missing.
DAMAGED = (OSError, ValueError, LookupError, zipfile.BadZipFile, tf.errors.OpError)


def newest_version(directory):
    path = pathlib.Path(directory)
    try:
        if (path / "saved_model.pb").exists():
            return path
        names = os.listdir(path) if path.is_dir() else []
    except OSError as error:
        sys.exit(f"{directory} cannot be read: {error.strerror}")
    versions = [path / name for name in names if name.isdecimal()]  # 7 or 00007, as in the server
    if not versions:
        sys.exit(
            f"{directory} holds no exported model: neither saved_model.pb nor a version 1, 2, ..."
        )
    return max(versions, key=lambda p: int(p.name))


def load(directory):
    """Returns the exported model of a directory. If it does not load, the program ends."""
    version = newest_version(directory)
    try:
        return tf.saved_model.load(str(version))
    except DAMAGED as error:
        sys.exit(f"{version} holds a model that does not load: {error}")


def classifier(model, directory):
    """Returns the function from texts to probabilities. A model without one ends the program."""
    ask = dict(model.signatures).get("serving_default")
    takes = ask and [*ask.structured_input_signature[1]]
    if takes != ["text"] or "probability" not in ask.structured_outputs:
        sys.exit(
            f"{directory} holds no sentiment model, from `text` to `probability`. Received: from "
            f"{takes} to {ask and [*ask.structured_outputs]}."
        )
    return lambda texts: ask(text=tf.constant(texts))["probability"].numpy()


def unknown_characters(model, prompts):
    """Returns the characters that a character model has no token for and leaves out."""
    size = model.signatures["step"].structured_outputs["logits"].shape[-1]
    known = model.signatures["vocabulary"](token=tf.range(size, dtype=tf.int64))["character"]
    return sorted(set("".join(prompts)) - {character.decode() for character in known.numpy()})


def main():
    p = command_line(__doc__)
    p.add_argument("directory")
    p.add_argument("text", type=readable, nargs="+")
    p.add_argument("--length", type=int32, default=200, help="characters to generate")
    p.add_argument("--temperature", type=finite, default=0.8, help="0: always the likeliest")
    p.add_argument("--top-k", type=int32, default=0, help="of the likeliest only; 0: of all")
    p.add_argument("--seed", type=int64, default=1)
    args = p.parse_args()

    model = load(args.directory)
    rows = len(args.text)
    if ask := dict(model.signatures).get("generate"):
        inputs = ask.structured_input_signature[1]
        given = {
            "prompt": args.text,
            "length": [args.length] * rows,
            "temperature": [args.temperature] * rows,
            "top_k": [args.top_k] * rows,
            "seed": [args.seed] * rows,
        }
        answers = ask(
            **{name: tf.constant(given[name], spec.dtype) for name, spec in inputs.items()}
        )
        if refused := [error.decode() for error in answers["error"].numpy() if error]:
            sys.exit(refused[0])
        if unknown := unknown_characters(model, args.text):
            said = "Left out of the prompt, since the model does not know them:"
            print(said, " ".join(unknown), file=sys.stderr)
        for prompt, continuation in zip(args.text, answers["text"].numpy(), strict=True):
            print(prompt + continuation.decode(errors="replace"))
    else:
        probabilities = classifier(model, args.directory)(args.text)
        for given, probability in zip(args.text, probabilities, strict=True):
            print(f"{'positive' if probability >= 0.5 else 'negative'}  {probability:.3f}  {given}")


if __name__ == "__main__":
    main()
