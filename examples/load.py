"""Send sentiment requests to a server at a given rate, and plan the servers that a rate needs.

    python examples/load.py --rate 50 --seconds 30
    python examples/load.py --rate 50 --grpc localhost:8500
    python examples/load.py --plan 100,1000,10000 --within 250

A request is one review. Requests come at random times (Poisson), whether or not earlier requests
are answered (open loop), like the requests of many callers. The time of a request begins when it is
due, so waiting in the client counts, too. No request is sent twice.

`--plan` measures how long a core takes for a text: as many callers as the server has cores send
requests without a pause. Then it *simulates* a queue before these cores (M/G/c, `queues.py`), which
gives the highest rate of a server, and divides the wanted rates by it. The plan leaves out the
network, and batches that several requests share. If client and server run on one machine, the
client's work counts as the server's.

The last line is one JSON object.
"""

import collections
import concurrent.futures
import http.client
import json
import math
import sys
import threading
import time
import urllib.parse

import quiet_tensorflow  # noqa: F401
import numpy as np
import queues
import tensorflow as tf
from argument_types import above_zero, command_line, filled, http_address, positive, seconds, seed

from keras_gated import datasets

MOST = 10_000_000  # requests of a run
SENDERS = 128  # requests at once; further requests wait in the client
# How busy the autoscaler of saved_models/kubernetes/serving.yaml keeps its pods, and its fewest
# pods.
AUTOSCALED, FEWEST = 0.6, 2


class Rest:
    """Sends requests through REST. Each thread keeps a connection."""

    refusal = None  # the words of the server, if it refused a request

    def __init__(self, address, model, label, timeout):
        parts, self._timeout = urllib.parse.urlsplit(address), timeout
        model, label = (urllib.parse.quote(name, safe="") for name in (model, label))
        self._host = parts.netloc
        self._path = f"{parts.path.rstrip('/')}/v1/models/{model}/labels/{label}:predict"
        self._mine = threading.local()

    def request(self, text):
        return json.dumps({"inputs": {"text": [text]}}).encode()

    def ask(self, request):
        """Sends a request. Returns None, or the kind of error."""
        try:
            if not hasattr(self._mine, "connection"):
                self._mine.connection = http.client.HTTPConnection(
                    self._host, timeout=self._timeout
                )
            self._mine.connection.request("POST", self._path, request)
            answer = self._mine.connection.getresponse()
            said = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            self._mine.connection.close()  # the next request opens the connection anew
            return type(error).__name__
        if answer.status != 200:
            self.refusal = said.strip()
        return None if answer.status == 200 else f"HTTP {answer.status}"


class Grpc:
    """Sends requests through gRPC, with the same methods."""

    refusal = None

    def __init__(self, address, model, label, timeout):
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._spec, self._timeout, self._error = (model, label), timeout, grpc.RpcError
        channel = grpc.insecure_channel(address)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def request(self, text):
        from tensorflow_serving.apis import predict_pb2

        made = predict_pb2.PredictRequest()
        made.model_spec.name, made.model_spec.version_label = self._spec
        made.inputs["text"].CopyFrom(tf.make_tensor_proto([text]))
        return made

    def ask(self, request):
        try:
            self._stub.Predict(request, timeout=self._timeout)
        except self._error as error:
            self.refusal = error.details()
            return error.code().name
        return None


def arrivals(rate, seconds, seed):
    """Returns the times at which requests are due: random, `rate` a second on average."""
    draw = np.random.default_rng(seed)
    gaps = draw.exponential(1 / rate, size=math.ceil(2 * rate * seconds + 20))
    times = np.cumsum(gaps)
    return times[times < seconds]


def send(ask, requests, due):
    """Sends each request when it is due. Returns when each was done, and its error or None."""
    done, errors = np.empty(len(due)), [None] * len(due)
    with concurrent.futures.ThreadPoolExecutor(SENDERS) as pool:
        start = time.monotonic()

        def one(number):
            errors[number] = ask(requests[number % len(requests)])
            done[number] = time.monotonic() - start

        sent = []
        for number, moment in enumerate(due):
            time.sleep(max(0.0, start + moment - time.monotonic()))
            sent.append(pool.submit(one, number))
        for future in sent:
            future.result()  # raises errors of this script
    return done, errors


def without_pause(ask, requests, callers, seconds):
    """Lets some callers send one request after the other. Returns the times of the answers."""
    end, errors = time.monotonic() + seconds, collections.Counter()

    def caller(first):
        times, number = [], first
        while (start := time.monotonic()) < end:
            error = ask(requests[number % len(requests)])
            if error:
                errors[error] += 1
            else:
                times.append(time.monotonic() - start)
            number += callers
        return times

    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        times = [one for found in pool.map(caller, range(callers)) for one in found]
    if errors or not times:
        sys.exit(f"A plan needs a server that answers. Received: {dict(errors)} in {seconds:g} s")
    return np.array(times)


def saturation(due, done, most):
    """Returns the share of the time in which more than `most` requests were unanswered."""
    moments = np.concatenate([due, done])
    order = np.argsort(moments, kind="stable")
    waiting = np.cumsum(np.repeat([1, -1], [len(due), len(done)])[order])
    lengths = np.diff(moments[order])
    return float(lengths[waiting[:-1] > most].sum() / lengths.sum()) if lengths.sum() else 0.0


def report(due, done, errors, most):
    """Returns the printed results of a run."""
    good = np.array([error is None for error in errors])
    times = 1000 * (done - due)[good]
    quantiles = {
        f"p{q}_ms": round(float(np.percentile(times, q)), 1) if len(times) else None
        for q in (50, 90, 99)
    }
    return {
        "requests": len(due),
        "reached": round(float(good.sum() / done.max()), 1),
        **quantiles,
        "errors": dict(collections.Counter(error for error in errors if error)),
        "saturation": round(saturation(due, done, most), 3),
    }


def plan(alone, throughput, cores, rates, within_ms):
    """Returns the number of servers for each rate: the fewest, and with the autoscaler.

    Args:
        alone: Seconds of the answers to a single caller. They show how times differ between texts.
        throughput: Answers a second when all cores work. It shows the mean time of a core.
    """
    services = alone * (cores / throughput) / alone.mean()
    most = queues.most_within(1000 * services, cores, within_ms) * 1000
    busy = most * services.mean() / cores
    found = {
        "service_ms": round(float(1000 * services.mean()), 2),
        "service_p99_ms": round(float(1000 * np.percentile(services, 99)), 2),
        "texts_a_second_at_most": round(throughput, 1),
        "texts_a_second_in_time": round(most, 1),
        "busy": round(float(busy), 2),
    }
    rows = []
    for rate in rates:
        least = math.ceil(rate / most)
        autoscaled = max(FEWEST, least, math.ceil(rate / (AUTOSCALED * throughput)))
        rows.append({"rate": rate, "least": least, "autoscaled": autoscaled})
        rows[-1]["cores"] = autoscaled * cores
    return {**found, "plan": rows}


def reviews(dataset, data_dir, number):
    """Returns texts of the test split, of any length."""
    found = datasets.load(dataset, data_dir, offline="toy_reviews")["test"].take(number)
    return [row["text"].decode() for row in found.as_numpy_iterator()]


def rates(given):
    return [above_zero(rate) for rate in given.split(",")]


def main():
    p = command_line(__doc__)
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--rate", type=above_zero, help="requests a second")
    what.add_argument(
        "--plan",
        type=rates,
        metavar="RATE,...",
        help="measure the server, and say how many the rates need",
    )
    p.add_argument("--seconds", type=seconds, default=30)
    p.add_argument(
        "--rest", type=http_address, default="http://localhost:8501", help="address of the server"
    )
    p.add_argument("--grpc", type=filled, help="HOST:PORT, instead of REST")
    p.add_argument("--model", type=filled, default="sentiment")
    p.add_argument("--label", type=filled, default="stable", help="of the version")
    p.add_argument("--timeout", type=seconds, default=10, help="seconds to wait for an answer")
    p.add_argument(
        "--waiting", type=positive, default=8, help="saturated: more than that unanswered"
    )
    p.add_argument("--cores", type=positive, default=2, help="--plan: of the server")
    p.add_argument("--within", type=above_zero, default=250, help="--plan: ms, for 99 of 100")
    p.add_argument("--dataset", choices=["imdb_reviews", "toy_reviews"], default="imdb_reviews")
    p.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    p.add_argument("--seed", type=seed, default=1)
    args = p.parse_args()
    if args.rate and args.rate * args.seconds > MOST:
        p.error(f"argument --rate: must be at most {MOST} requests in --seconds")
    client_of, address = (Grpc, args.grpc) if args.grpc else (Rest, args.rest)
    client = client_of(address, args.model, args.label, args.timeout)
    requests = [client.request(text) for text in reviews(args.dataset, args.data_dir, 2000)]
    if error := client.ask(requests[0]):
        if client.refusal:
            sys.exit(f"{address} refuses the first request: {error}: {client.refusal}")
        sys.exit(f"No answer from {address}: {error}. `make serve` starts a server to try.")
    setting = {"server": address, "dataset": args.dataset}
    if args.plan:
        alone = without_pause(client.ask, requests, 1, args.seconds / 2)
        start = time.monotonic()
        answers = len(without_pause(client.ask, requests, args.cores, args.seconds / 2))
        throughput = answers / (time.monotonic() - start)
        try:
            found = plan(alone, throughput, args.cores, args.plan, args.within)
        except ValueError as error:
            sys.exit(f"--within, in ms: {error}")
        result = {**setting, "within_ms": args.within, "cores": args.cores, **found}
    else:
        due = arrivals(args.rate, args.seconds, args.seed)
        if not len(due):
            sys.exit("No request fell into the time; ask for a higher --rate or more --seconds.")
        done, errors = send(client.ask, requests, due)
        result = {**setting, "rate": args.rate, **report(due, done, errors, args.waiting)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
