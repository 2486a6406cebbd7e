"""Ask TensorFlow Serving for sentiment, for a text, or for a text that streams in.

    python examples/query.py classify "It is not a great film, but I enjoyed it." "Boring."
    python examples/query.py generate "ALMA:" --length 200 --top-k 10
    python examples/query.py stream "ALMA:" --grpc localhost:8500
    python examples/query.py classify "Boring." --label canary

The default is REST (`--rest http://localhost:8501`); `--grpc HOST:PORT` takes gRPC. `stream` calls
`step` once a character and keeps the states itself, so any server may answer any step. A request is
sent again only if no server accepted it: no server listens, or the queue is full. A server that is
slow to answer is still at work, and a second request would make it slower.
"""

import collections.abc
import http.client
import json
import math
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from argument_types import (
    command_line,
    filled,
    finite,
    int32,
    int64,
    integer,
    readable,
    seconds,
    web_address,
)

SHOWN = 100  # characters of an answer that cannot be read
RETRIES = 4  # after the first attempt, with pauses of 0.2, 0.4, 0.8 and 1.6 s


class QueryError(Exception):
    """The server cannot be reached, or refused the request; the message is for people."""


class UnavailableError(Exception):
    """No server accepted the request. A later attempt may succeed."""


def patiently(attempt, where):
    """Calls `attempt` until a server accepts the request, a few times at most."""
    for number in range(RETRIES + 1):
        try:
            return attempt()
        except UnavailableError as error:
            reason = error
        if number < RETRIES:
            time.sleep(0.2 * 2**number)
    raise QueryError(
        f"No answer from {where} after {RETRIES + 1} attempts: {reason}. Is the server running? "
        "`make serve` starts one for development."
    )


def too_late(where, timeout):
    return QueryError(
        f"No answer from {where} within {timeout:g} s. It may still be at work, so nothing was "
        "asked again. Wait longer (--timeout), or ask for less."
    )


def accepted(outputs):
    """Returns outputs, or raises if the model reports an `error` for a row."""
    for row, error in enumerate(outputs.get("error", [])):
        if error:
            raise QueryError(f"The model refused row {row}: {error}")
    return outputs


def pick(found, name, of):
    """Returns what the server has by a name, or raises with the names that it has."""
    if not isinstance(found, collections.abc.Mapping):
        raise QueryError(f"{of} is not one of TensorFlow Serving. Received: {str(found)[:SHOWN]}")
    if name not in found:
        raise QueryError(f"{of} has no {name!r}. It has {sorted(found)}. Ask another --model.")
    return found[name]


class Rest:
    """Asks through REST.

    Args:
        address: For example `http://localhost:8501`.
        timeout: Seconds to wait for an answer.
        version, label: The version of the model; give at most one of the two. Default: the newest.
    """

    def __init__(self, address, timeout, version=None, label=None):
        self.address, self.timeout = address.rstrip("/"), timeout
        self._which = ""
        if version is not None:
            self._which = f"/versions/{version}"
        elif label is not None:
            self._which = f"/labels/{urllib.parse.quote(label, safe='')}"

    def predict(self, model, signature, inputs):
        """Returns the outputs by name, lists with one entry a row. So are the inputs."""
        body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
        outputs = pick(self._ask(model, ":predict", body), "outputs", f"An answer of {model!r}")
        if isinstance(outputs, dict):
            return accepted(outputs)
        [name] = self.shapes(model, signature)[1]  # one output comes without its name
        return {name: outputs}

    def shapes(self, model, signature):
        """Returns the inputs and the outputs of a signature, names to shapes."""
        signatures = self._ask(model, "/metadata")
        for name in ("metadata", "signature_def", "signature_def"):
            signatures = pick(signatures, name, f"The metadata of {model!r}")
        return tuple(
            {
                name: [int(dim["size"]) for dim in tensor["tensor_shape"].get("dim", [])]
                for name, tensor in pick(signatures, signature, f"Model {model!r}")[side].items()
            }
            for side in ("inputs", "outputs")
        )

    def _ask(self, model, what, body=None):
        path = f"/v1/models/{urllib.parse.quote(model, safe='')}{self._which}{what}"
        request = urllib.request.Request(
            self.address + path, body, {"Content-Type": "application/json"}
        )

        def attempt():
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    answer = response.read().decode(errors="replace")
            except urllib.error.HTTPError as error:
                message = error.read().decode(errors="replace")
                try:
                    message = json.loads(message)["error"]
                except (ValueError, KeyError, TypeError):
                    message = message or error.reason
                if error.code == 503:
                    raise UnavailableError(f"{error.code}, {message}") from None
                raise QueryError(f"The server refused ({error.code}): {message}") from None
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, ConnectionRefusedError):
                    raise UnavailableError(reason) from None
                if isinstance(reason, TimeoutError):
                    raise too_late(self.address, self.timeout) from None
                raise QueryError(f"No answer from {self.address}: {reason}") from None
            try:
                return json.loads(answer)
            except ValueError:
                return answer  # `pick` refuses it

        return patiently(attempt, self.address)


class Grpc:
    """Asks through gRPC, `HOST:PORT`; the same arguments and methods as `Rest`."""

    def __init__(self, address, timeout, version=None, label=None):
        import quiet_tensorflow  # noqa: F401
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self.address, self.timeout, self._known = address, timeout, {}
        self._version, self._label = version, label
        options = [("grpc.max_receive_message_length", -1)]
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(
            grpc.insecure_channel(address, options)
        )

    def predict(self, model, signature, inputs):
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        self._name(request.model_spec, model)
        request.model_spec.signature_name = signature
        for name, info in self._signature(model, signature).inputs.items():
            if name in inputs:
                request.inputs[name].CopyFrom(tf.make_tensor_proto(inputs[name], info.dtype))
        outputs = self._ask(self.stub.Predict, request).outputs
        found = {name: tf.make_ndarray(tensor) for name, tensor in outputs.items()}
        return accepted(
            {
                name: [v.decode(errors="replace") for v in array]
                if array.dtype == object and array.ndim == 1
                else array.tolist()
                for name, array in found.items()
            }
        )

    def shapes(self, model, signature):
        found = self._signature(model, signature)
        return tuple(
            {name: [d.size for d in tensor.tensor_shape.dim] for name, tensor in side.items()}
            for side in (found.inputs, found.outputs)
        )

    def _name(self, spec, model):
        spec.name = model
        if self._version is not None:
            spec.version.value = self._version
        elif self._label is not None:
            spec.version_label = self._label

    def _signature(self, model, name):
        from tensorflow_serving.apis import get_model_metadata_pb2

        if model not in self._known:
            request = get_model_metadata_pb2.GetModelMetadataRequest()
            self._name(request.model_spec, model)
            request.metadata_field.append("signature_def")
            answer = self._ask(self.stub.GetModelMetadata, request)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            answer.metadata["signature_def"].Unpack(signatures)
            self._known[model] = signatures.signature_def
        return pick(self._known[model], name, f"Model {model!r}")

    def _ask(self, method, request):
        import grpc

        def attempt():
            try:
                return method(request, timeout=self.timeout)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    raise UnavailableError(error.details()) from None
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise too_late(self.address, self.timeout) from None
                message = f"The server refused ({error.code().name}): {error.details()}"
                raise QueryError(message) from None

        return patiently(attempt, self.address)


def classify(client, model, texts):
    """Yields texts with their label and the probability that they are positive."""
    answer = client.predict(model, "serving_default", {"text": texts})
    probabilities = pick(answer, "probability", f"An answer of {model!r}")
    good = isinstance(probabilities, list) and len(probabilities) == len(texts)
    if not good or not all(isinstance(p, int | float) for p in probabilities):
        raise QueryError(
            f"{model!r} gives no probability for each text. Received: {str(probabilities)[:SHOWN]}"
        )
    for text, probability in zip(texts, probabilities, strict=True):
        yield f"{'positive' if probability >= 0.5 else 'negative'}  {probability:.3f}  {text}"


def generate(client, model, prompts, length, temperature, top_k, seed):
    """Returns what follows each prompt, one call for all of them."""
    same = {"length": length, "temperature": temperature, "top_k": top_k, "seed": seed}
    rows = {name: [value] * len(prompts) for name, value in same.items()}
    answer = client.predict(model, "generate", {"prompt": prompts, **rows})
    return pick(answer, "text", f"An answer of {model!r}")


def stream(client, model, prompt, length, temperature, top_k, seed):
    """Yields the characters that follow a prompt. The client samples them and keeps the states."""
    least = {"length": length, "temperature": temperature, "top_k": top_k}
    if wrong := [name for name, value in least.items() if value < 0]:
        raise QueryError(f"`{wrong[0]}` must be at least 0. Received: {least[wrong[0]]}")
    inputs, outputs = client.shapes(model, "step")
    size = pick(outputs, "logits", f"The `step` of {model!r}")[-1]
    names = client.predict(model, "vocabulary", {"token": list(range(size))})["character"]
    tokens = {name: token for token, name in enumerate(names)}
    states = {name: [[0.0] * shape[-1]] for name, shape in inputs.items() if name != "token"}
    draw = random.Random(seed)

    def step(character):
        nonlocal states
        answer = client.predict(model, "step", {"token": [tokens[character]], **states})
        states = {name: answer[name] for name in states}
        return answer["logits"][0]

    for character in [c for c in prompt if c in tokens] or ["\n"]:
        logits = step(character)
    for number in range(length):
        likely = sorted(range(size), key=lambda token: -logits[token])
        likely = likely[: (top_k or size) if temperature else 1]
        highest = logits[likely[0]]
        weights = [math.exp((logits[token] - highest) / (temperature or 1)) for token in likely]
        character = names[draw.choices(likely, weights)[0]]
        yield character
        if number + 1 < length:
            logits = step(character)


def main():
    p = command_line(__doc__)
    p.add_argument("what", choices=("classify", "generate", "stream"))
    p.add_argument("text", type=readable, nargs="+")
    p.add_argument(
        "--rest", type=web_address, default="http://localhost:8501", help="address of the server"
    )
    p.add_argument("--grpc", type=filled, help="HOST:PORT, instead of REST")
    p.add_argument("--model", type=filled, help="default: sentiment to classify, shakespeare else")
    which = p.add_mutually_exclusive_group()
    which.add_argument(
        "--version", type=integer(0, 2**63 - 1), help="of the model; default: the newest"
    )
    which.add_argument("--label", type=filled, help="of a version: stable, canary")
    p.add_argument("--timeout", type=seconds, default=10, help="seconds to wait for an answer")
    p.add_argument("--length", type=int32, default=200, help="characters to generate")
    p.add_argument("--temperature", type=finite, default=0.8, help="0: always the likeliest")
    p.add_argument("--top-k", type=int32, default=0, help="of the likeliest only; 0: of all")
    p.add_argument("--seed", type=int64, default=1)
    args = p.parse_args()
    client_of, address = (Grpc, args.grpc) if args.grpc else (Rest, args.rest)
    client = client_of(address, args.timeout, args.version, args.label)
    model = args.model or ("sentiment" if args.what == "classify" else "shakespeare")
    sampling = (args.length, args.temperature, args.top_k, args.seed)
    try:
        if args.what == "classify":
            print(*classify(client, model, args.text), sep="\n")
        elif args.what == "generate":
            answers = generate(client, model, args.text, *sampling)
            for prompt, continuation in zip(args.text, answers, strict=True):
                print(prompt + continuation)
        else:
            for prompt in args.text:
                written = stream(client, model, prompt, *sampling)
                print(prompt + next(written, ""), end="", flush=True)  # after what may be refused
                for character in written:
                    print(character, end="", flush=True)
                print()
    except QueryError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
