"""The files in saved_models/ that a TensorFlow Serving is started with."""

import pathlib
import re

import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from stand_in_config import BatchingParameters, MonitoringConfig
from tensorflow_serving.config import model_server_config_pb2

import keras_gated

FOLDER = pathlib.Path(__file__).parent.parent / "saved_models"


def models_config():
    text = (FOLDER / "models.config").read_text()
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list


def arguments(command):
    return dict(one.removeprefix("--").split("=", 1) for one in command)


def test_the_models_are_those_of_the_folder_with_a_stable_and_a_canary_version():
    for config in models_config().config:
        assert config.base_path == f"/models/{config.name}"
        assert set(config.version_labels) == {"stable", "canary"}
        specific = set(config.model_version_policy.specific.versions)
        assert set(config.version_labels.values()) <= specific
    assert [c.name for c in models_config().config] == ["sentiment", "shakespeare"]


def test_batching_and_monitoring_are_what_the_server_reads():
    text = (FOLDER / "batching.config").read_text()
    found = text_format.Parse(text, BatchingParameters())
    assert found.enable_large_batch_splitting.value
    assert found.max_execution_batch_size.value == 64
    assert found.max_batch_size.value >= 1000  # the rows of one request
    rows_in_queue = found.max_enqueued_batches.value * found.max_execution_batch_size.value
    assert found.max_batch_size.value < rows_in_queue  # else the largest never fits
    assert found.batch_timeout_micros.value == 2000
    assert not found.pad_variable_length_inputs  # it pads with a row's first entry
    text = (FOLDER / "monitoring.config").read_text()
    assert text_format.Parse(text, MonitoringConfig()).prometheus_config.enable
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch { value: 1 }", BatchingParameters())


def test_compose_and_kubernetes_start_the_same_server_on_files_that_are_there():
    serving = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["serving"]
    manifest = yaml.safe_load_all((FOLDER / "kubernetes" / "serving.yaml").read_text())
    [deployment] = [document for document in manifest if document["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == serving["image"]
    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+", container["image"])
    assert [one.replace("/config/", "/models/") for one in container["args"]] == serving["command"]
    for name, value in arguments(serving["command"]).items():
        if name.endswith("_file"):
            assert (FOLDER / pathlib.Path(value).relative_to("/models")).exists()
    assert serving["volumes"] == [".:/models:ro"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/models", "/config"} <= mounts
    probed = container["readinessProbe"]["httpGet"]["path"]
    assert probed == f"/v1/models/{models_config().config[0].name}/labels/stable/metadata"


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["sentiment", "shakespeare"])
def test_a_trained_model_lies_there_small_with_its_card_and_answers(name):
    version = FOLDER / name / "1"
    size = sum(path.stat().st_size for path in version.rglob("*") if path.is_file())
    assert size < 12e6
    card = (FOLDER / name / "model_card.md").read_text()
    for heading in ("Data", "Licence of the data", "Training", "Figures", "Limits", "Not for"):
        assert f"\n## {heading}\n" in card
    keras_gated.check_export(version)
    served = tf.saved_model.load(str(version))
    if name == "sentiment":
        texts = tf.constant(
            ["A wonderful film, superb acting, moving.", "The worst film, a waste of time."]
        )
        found = served.signatures["serving_default"](text=texts)["probability"].numpy().ravel()
        assert found[0] > 0.5 > found[1]
    else:
        # Each of 65 characters alike would cost 4.2 nats.
        text = tf.constant(["ROMEO:\nWhat light through yonder window breaks?\n"])
        assert served.signatures["score"](text=text)["nats"].numpy()[0] < 2.2
