"""Training on several machines: as on one, and nothing hangs that can be refused."""

import json

import keras
import pytest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's ways")
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    from keras_gated import distribute

ONE, TWO = ["a:1"], ["a:2222", "b.svc:65535"]
WORKER = {"type": "worker", "index": 0}


@pytest.mark.parametrize(
    "config, number",
    [
        ({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 1}}, 2),
        # Vertex AI: a chief, indices as strings, and keys of its own
        (
            {
                "cluster": {"chief": ONE, "worker": TWO},
                "environment": "cloud",
                "task": {"type": "chief", "index": "0", "trial": "1"},
            },
            3,
        ),
        ({"cluster": {"chief": ONE}, "task": {"type": "chief", "index": 0}}, 1),
        ({"cluster": {}, "task": {"index": 0}}, 1),
        ({"cluster": {"worker": ["[::1]:22", "[::1]:23"]}, "task": WORKER}, 2),
    ],
)
def test_the_cluster_is_read_as_kubeflow_and_vertex_describe_it(config, number):
    assert distribute._number_of_workers(json.dumps(config)) == number


@pytest.mark.parametrize(
    "config, message",
    [
        ("{'cluster'", "it is no JSON"),
        ("[]", 'an object with the objects "cluster" and "task"'),
        ({"cluster": {"worker": TWO}, "task": 1}, 'an object with the objects "cluster"'),
        ({"cluster": {"worker": TWO, "ps": ONE}, "task": WORKER}, "type 'ps' are not supported"),
        (
            {"cluster": {"worker": TWO, "evaluator": ONE}, "task": WORKER},
            "type 'evaluator' are not supported",
        ),
        ({"cluster": {"worker": "a:1"}, "task": WORKER}, "'worker' must be a list"),
        ({"cluster": {"worker": ["a:1", "b"]}, "task": WORKER}, "'b' is not HOST:PORT"),
        ({"cluster": {"worker": ["a:1", "b:x"]}, "task": WORKER}, "'b:x' is not HOST:PORT"),
        ({"cluster": {"worker": ["a:1", "b:65536"]}, "task": WORKER}, "'b:65536' is not HOST"),
        ({"cluster": {"worker": ["a:0", "b:1"]}, "task": WORKER}, "'a:0' is not HOST:PORT"),
        ({"cluster": {"worker": ["a:1", 2]}, "task": WORKER}, "2 is not HOST:PORT"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": WORKER}, "stands there twice"),
        ({"cluster": {"chief": TWO, "worker": ONE}, "task": WORKER}, "one chief only"),
        ({"cluster": {"worker": TWO}}, "the type of the task, None, is not one of"),
        ({"cluster": {"worker": TWO}, "task": {"type": "chief", "index": 0}}, "'chief', is not"),
        ({"cluster": {"worker": TWO}, "task": {"type": "evaluator", "index": 0}}, "'evaluator'"),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker"}}, "the index None: the cluster"),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 2}}, "index 2: .* has 2"),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": -1}}, "index -1"),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 0.5}}, "index 0.5"),
    ],
)
def test_a_broken_cluster_is_refused_in_words(config, message, monkeypatch):
    text = config if isinstance(config, str) else json.dumps(config)
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message) as raised:
        distribute.strategy()
    assert text in str(raised.value)


@pytest.mark.parametrize("text", [None, "", '{"cluster": {"worker": ["a:1"]}, "task": %s}'])
def test_one_worker_trains_as_without_a_strategy(text, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text.replace("%s", json.dumps(WORKER)))
    strategy = distribute.strategy(units=4)
    assert strategy is tf.distribute.get_strategy() and strategy.extended.should_checkpoint
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    distribute.check_workers(model)  # of one worker, there is nothing to compare
