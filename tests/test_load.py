"""The load generator `examples/load.py` and the queue of its plan, `examples/queues.py`."""

import json
import math
import pathlib
import socket
import sys
import time

import load
import numpy as np
import pytest
import queues
import small_models
import stand_in_server
import yaml

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = """model_config_list { config {
    name: "sentiment" base_path: "/models/sentiment" model_platform: "tensorflow"
    version_labels { key: "stable" value: 1 }
} }"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Yields the REST and the gRPC address of a stand-in server whose model takes texts."""
    folder = tmp_path_factory.mktemp("models")
    small_models.save_words(folder / "sentiment" / "1")
    (folder / "models.config").write_text(CONFIG)
    with stand_in_server.Server(folder / "models.config") as made:
        yield f"http://localhost:{made.rest_port}", f"localhost:{made.grpc_port}"


# The queue, against what is known of it


def test_waits_counted_by_hand():
    # The third comes while both serve until 1 and 3; the fourth finds nobody.
    assert queues.waits([0, 0, 0, 10], [3, 1, 1, 1], 2).tolist() == [0, 0, 1, 0]


def simulated(rate, servers, services):
    arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / rate, len(services)))
    return queues.waits(arrivals, services, servers)


def exponential(number):
    return np.random.default_rng(2).exponential(size=number)


def test_one_server_with_random_services_waits_as_the_formula_of_m_m_1_says():
    found = simulated(0.5, 1, exponential(200_000))
    assert found.mean() == pytest.approx(0.5 / (1 - 0.5), rel=0.03)
    assert (found > 0).mean() == pytest.approx(0.5, rel=0.03)


def test_one_server_with_equal_services_waits_half_as_long():
    # Pollaczek and Khinchine: load / 2 (1 - load), here of services of 1.
    assert simulated(0.5, 1, np.ones(200_000)).mean() == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(
    "servers, erlangs, waiting", [(2, 1, 1 / 3), (5, 4, 0.5541), (10, 8, 0.4092)]
)
def test_the_share_that_waits_is_that_of_erlang_s_tables(servers, erlangs, waiting):
    found = simulated(erlangs, servers, exponential(200_000))
    assert (found > 0).mean() == pytest.approx(waiting, rel=0.03)
    assert found.mean() == pytest.approx(waiting / (servers - erlangs), rel=0.1)


def test_the_most_within_a_limit_is_that_of_the_formula():
    # Time in an M/M/1 queue is exponential with rate 1 - arrivals: 99 % are below log(100) / that.
    found = queues.most_within(exponential(50_000), 1, limit=20)
    assert found == pytest.approx(1 - math.log(100) / 20, rel=0.03)


def test_more_servers_of_a_queue_take_more_than_as_many_queues():
    services = exponential(10_000)
    assert queues.most_within(services, 4, 10) > 4 * queues.most_within(services, 1, 10)


def test_services_that_take_longer_than_the_limit_are_told():
    with pytest.raises(ValueError, match=r"^No number of servers answers 99% within 4: .* takes 5"):
        queues.most_within([5.0], 8, 4)


def test_a_plan_divides_by_what_a_server_takes_in_time():
    # Texts of 10 ms, two cores: 200 a second at most. Equal services hardly wait below that.
    found = load.plan(np.full(100, 0.01), 200.0, 2, [100, 1000, 10_000], 250)
    assert found["service_ms"] == found["service_p99_ms"] == 10
    assert 190 < found["texts_a_second_in_time"] < 200
    least = [row["least"] for row in found["plan"]]
    assert least[:2] == [1, 6] and 50 < least[2] <= 53  # 50 could never rest
    assert [row["autoscaled"] for row in found["plan"]] == [2, 9, 84]  # 120 a second each
    assert [row["cores"] for row in found["plan"]] == [4, 18, 168]
    # Half as fast with both cores at work: half as much. The times alone do not say so.
    slower = load.plan(np.full(100, 0.01), 100.0, 2, [100], 250)
    assert slower["service_ms"] == 20 and slower["texts_a_second_at_most"] == 100


def test_the_plan_s_autoscaler_is_the_manifest_s():
    text = (ROOT / "saved_models" / "kubernetes" / "serving.yaml").read_text()
    [scaler] = [d for d in yaml.safe_load_all(text) if d["kind"] == "HorizontalPodAutoscaler"]
    target = scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"]
    assert target / 100 == load.AUTOSCALED
    assert scaler["spec"]["minReplicas"] == load.FEWEST


# The load


def test_arrivals_are_random_and_independent_at_the_rate():
    due = load.arrivals(200, 100, seed=1)
    gaps = np.diff(due)
    assert due[0] > 0 and (gaps > 0).all() and due[-1] < 100
    assert len(due) == pytest.approx(20_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # exponential
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.03
    np.testing.assert_array_equal(due, load.arrivals(200, 100, seed=1))
    assert len(load.arrivals(200, 100, seed=2)) != len(due)


def test_requests_are_sent_when_due_though_earlier_ones_are_unanswered():
    def ask(request):
        time.sleep(0.4)
        return f"kind {request}" if request else None

    done, errors = load.send(ask, [0, 1], due := np.array([0.0, 0.02, 0.04, 0.06]))
    assert (done - due).max() < 0.8  # one after the other, the last would take 1.5
    assert errors == [None, "kind 1", None, "kind 1"]


def test_a_request_that_waits_in_the_client_waits_since_it_was_due(monkeypatch):
    monkeypatch.setattr(load, "SENDERS", 1)
    done, _ = load.send(lambda _: time.sleep(0.1), [None], np.zeros(3))
    assert done[2] >= 0.3


def test_a_mistake_of_ours_is_not_counted_as_an_answer():
    def ask(request):
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        load.send(ask, [None], np.zeros(2))


def test_saturation_is_the_share_of_the_time_with_more_unanswered():
    due, done = np.array([0.0, 1.0, 2.0]), np.array([4.0, 3.0, 8.0])
    assert load.saturation(due, done, 0) == 1
    assert load.saturation(due, done, 1) == 3 / 8  # from 1 to 4
    assert load.saturation(due, done, 2) == 1 / 8  # from 2 to 3
    assert load.saturation(due, done, 3) == 0


def test_errors_are_counted_by_kind_and_not_among_the_times():
    due = np.array([0.0, 1.0, 2.0, 3.0])
    done = due + np.array([0.1, 1.0, 5.0, 0.1])
    found = load.report(due, done, [None, "HTTP 503", "TimeoutError", None], 8)
    assert found["errors"] == {"HTTP 503": 1, "TimeoutError": 1}
    assert found["p50_ms"] == found["p99_ms"] == 100
    assert found["requests"] == 4 and found["reached"] == round(2 / 7, 1)
    nothing = load.report(due, due + 1, ["HTTP 503"] * 4, 8)
    assert nothing["p99_ms"] is None and nothing["reached"] == 0


def clients(addresses, **which):
    given = {"model": "sentiment", "label": "stable", "timeout": 30, **which}
    rest, rpc = addresses
    return [load.Rest(rest, **given), load.Grpc(rpc, **given)]


def test_both_ways_of_asking_say_what_went_wrong(server):
    for client in clients(server):
        assert [client.ask(client.request(text)) for text in ("good", "", "x" * 9999)] == [None] * 3
    kinds = [c.ask(c.request("good")) for c in clients(server, model="nobody")]
    assert kinds == ["HTTP 400", "INVALID_ARGUMENT"]  # it has no such label
    with socket.socket() as free:
        free.bind(("localhost", 0))
        nowhere = f"localhost:{free.getsockname()[1]}"
    kinds = [c.ask(c.request("good")) for c in clients((f"http://{nowhere}", nowhere))]
    assert kinds == ["ConnectionRefusedError", "UNAVAILABLE"]


def test_a_path_before_the_api_and_odd_names_are_sent():
    client = load.Rest("http://host:1/before/", "a b/\u00e9", "x?y", 1)
    assert client._path == "/before/v1/models/a%20b%2F%C3%A9/labels/x%3Fy:predict"
    assert load.Rest(f"http://{'a' * 300}", "m", "l", 1).ask(b"").startswith("Unicode")


def test_a_connection_that_is_kept_answers_as_fast_as_a_new_one(server):
    client = clients(server)[0]
    request, times = client.request("good"), []
    for _ in range(30):
        start = time.monotonic()
        assert client.ask(request) is None
        times.append(time.monotonic() - start)
    assert min(times[20:]) < 0.03  # 0.04 where head and body of an answer wait for each other


@pytest.fixture
def run(server, monkeypatch, capsys):
    monkeypatch.setattr(load, "reviews", lambda *_: ["a good film", "bad " * 200, ""])

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["load.py", "--rest", server[0], *options])
        load.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_the_command_loads_a_server(run, server):
    for options in ((), ("--grpc", server[1])):
        found = run("--rate", "40", "--seconds", "1", *options)
        assert found["requests"] == len(load.arrivals(40, 1, 1)) and found["errors"] == {}
        assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
        assert 0 <= found["saturation"] <= 1 and found["reached"] > 0


def test_the_command_plans(run):
    found = run("--plan", "1,1000000", "--seconds", "1", "--within", "5000")
    few, many = found["plan"]
    assert few["least"] == 1 and many["least"] > 100
    assert many["cores"] == 2 * many["autoscaled"] >= 2 * many["least"]


@pytest.mark.parametrize("options, said", [
    (("--rate", "0"), "--rate: must be above 0. Received: 0"),
    (("--plan", "10,-1"), "--plan: must be above 0. Received: -1"),
    (("--rate", "1", "--cores", "0"), "--cores: must be at least 1. Received: 0"),
    (("--rate", "1", "--rest", "localhost:1"), "--rest: must be http://HOST:PORT. Rec"),
    (("--rate", "1e300"), "--rate: must be at most 10000000 requests in --seconds"),
    (("--rate", "1", "--timeout", "1e300"), "--timeout: must be above 0, at most 1e+06."),
    ((), "one of the arguments --rate --plan is required"),
])  # fmt: skip
def test_rubbish_options_are_refused_by_name(options, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["load.py", *options])
    with pytest.raises(SystemExit):
        load.main()
    assert said in capsys.readouterr().err


def test_the_words_of_a_server_that_refuses_are_told(run, server):
    for options in (("--rest", server[0]), ("--grpc", server[1])):
        with pytest.raises(SystemExit, match=r"refuses the first request: .*label"):
            run("--rate", "1", *options, "--label", "nobody")


def test_a_server_that_is_not_there_and_a_limit_too_low_are_told(run):
    with pytest.raises(SystemExit, match=r"^No answer from http://localhost:1: Conn.*`make serve`"):
        run("--rate", "1", "--rest", "http://localhost:1")
    with pytest.raises(SystemExit, match=r"^--within, in ms: No number of servers"):
        run("--plan", "1", "--seconds", "0.5", "--within", "0.001")


def test_the_mix_of_lengths_is_that_of_the_reviews(tmp_path):
    texts = load.reviews("toy_reviews", str(tmp_path), 50)
    assert len(texts) == 50 and all(isinstance(text, str) and text for text in texts)
    assert len({len(text) for text in texts}) > 10
    assert pathlib.Path(tmp_path, "toy_reviews").exists()
