"""The files in saved_models/kubernetes/: each field is one that its reader knows.

Kubernetes' own kinds are checked against its published schemas, at the oldest and the newest
version, and PromQL by a parser. The kinds of KServe and of the Prometheus operator and Grafana's
dashboard have no small package of schemas: the fields used are listed here, from KServe 0.21
(`V1beta1PredictorSpec`), the Prometheus operator 0.80 (`PrometheusRule`, `PodMonitor`) and Grafana
11; what they take over from Kubernetes is checked as Kubernetes' own.
"""

import copy
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
import stand_in_metrics
import yaml

kubernetes_validate = pytest.importorskip("kubernetes_validate")
promql_parser = pytest.importorskip("promql_parser")

MODELS = pathlib.Path(__file__).parent.parent / "saved_models"
FOLDER = MODELS / "kubernetes"
VERSIONS = ["1.29", kubernetes_validate.latest_version()]

# What the servers of the pods report: names from `servables/tensorflow/util.cc`,
# `batching/batching_session.cc`, `batching/batching_util.h` and
# `servables/tensorflow/saved_model_warmup_util.cc` of TensorFlow Serving 2.20, and from
# `cc/saved_model/loader.cc` of TensorFlow; spelt as `util/prometheus_exporter.cc` does.
SERVING = ":tensorflow:serving:"
SERVER_METRICS = {
    f"{SERVING}request_count": {"model_name", "status"},
    ":tensorflow:cc:saved_model:load_attempt_count": {"model_path", "status"},
    f"{SERVING}batching_session:wrapped_run_count": set(),
}
HISTOGRAMS = {
    f"{SERVING}request_latency": {"model_name", "API", "entrypoint"},
    f"{SERVING}model_warmup_latency": {"model_path", "status"},
    f"{SERVING}batching_session:queuing_latency": {"thread_pool_name"},
    f"{SERVING}batching_session:processed_batch_size": set(),
}
for name, labels in HISTOGRAMS.items():
    SERVER_METRICS[f"{name}_bucket"] = labels | {"le"}
    SERVER_METRICS[f"{name}_sum"] = SERVER_METRICS[f"{name}_count"] = labels
TARGET = {"namespace", "pod", "job"}  # labels that Prometheus adds to what it reads

# Flags of `tensorflow_model_server`: `model_servers/main.cc`, the same in 2.20 and July 2026.
FLAGS = {
    "model_config_file", "model_config_file_poll_wait_seconds", "enable_batching",
    "allow_version_labels_for_unavailable_models", "batching_parameters_file",
    "monitoring_config_file", "enable_grpc_healthcheck_service",
    "tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism",
}  # fmt: skip
HEALTH_SERVICES = {"", "ModelService", "PredictionService"}  # `model_servers/server.cc`


def documents(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def only(kind, *names):
    [found] = [
        d for name in names or ["serving.yaml"] for d in documents(name) if d["kind"] == kind
    ]
    return found


def pod_of(document):
    return document["spec"]["template"]["spec"]


def checked(document):
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


NATIVE = [
    pytest.param(document, id=f"{name}-{document['kind']}-{document['metadata']['name']}")
    for name in ("serving.yaml", "fill.yaml", "autoscaler_by_requests.yaml")
    for document in documents(name)
]


def places(document):
    """Yields every mapping in a document, but those whose keys are the writer's own."""
    if isinstance(document, dict):
        yield document
        for key, value in document.items():
            if key not in (
                "labels",
                "annotations",
                "matchLabels",
                "selector",
                "limits",
                "requests",
            ):
                yield from places(value)
    elif isinstance(document, list):
        for value in document:
            yield from places(value)


@pytest.mark.parametrize("document", NATIVE)
def test_each_field_is_in_the_published_schemas(document):
    checked(document)


def test_the_schemas_refuse_an_unknown_field_wherever_it_stands():
    document = only("Deployment")
    number = sum(1 for _ in places(document))
    assert number > 30
    for place in range(number):
        changed = copy.deepcopy(document)
        list(places(changed))[place]["replica"] = 1
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(changed, VERSIONS[-1], strict=True)


def check_restricted(pod, containers):
    """Checks a pod against Kubernetes' Pod Security Standard "restricted", and a little more."""
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("kind, name", [("Deployment", "serving.yaml"), ("Job", "fill.yaml")])
def test_pods_may_do_nothing_that_they_need_not(kind, name):
    pod = pod_of(only(kind, name))
    check_restricted(pod, pod["containers"])
    assert pod["automountServiceAccountToken"] is False


def test_what_belongs_together_names_each_other():
    deployment = only("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert only("PodMonitor", "monitoring.yaml")["spec"]["selector"]["matchLabels"] == labels
    for spread in pod_of(deployment)["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels
    [container] = pod_of(deployment)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    for document in documents("serving.yaml"):
        if document["kind"] == "Service":
            assert document["spec"]["selector"] == labels
            for port in document["spec"]["ports"]:
                assert port["port"] == ports[port["targetPort"]]
    claim = {"claimName": only("PersistentVolumeClaim")["metadata"]["name"]}
    for one in (deployment, only("Job", "fill.yaml")):
        claims = [v["persistentVolumeClaim"] for v in pod_of(one)["volumes"] if len(v) > 1
                  and "persistentVolumeClaim" in v]  # fmt: skip
        assert claims == [claim]
    scaled = [only("HorizontalPodAutoscaler", name)
              for name in ("serving.yaml", "autoscaler_by_requests.yaml")]  # fmt: skip
    assert scaled[0]["metadata"] == scaled[1]["metadata"]  # the second takes the first one's place
    for one in scaled:
        assert one["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # an apply would undo what the autoscaler did


def test_probes_ask_what_the_server_answers():
    [container] = pod_of(only("Deployment"))["containers"]
    assert "--enable_grpc_healthcheck_service=true" in container["args"]  # it is off by default
    for name in ("startupProbe", "livenessProbe"):
        assert container[name]["grpc"]["port"] == 8500
        assert container[name]["grpc"]["service"] in HEALTH_SERVICES
    path = container["readinessProbe"]["httpGet"]["path"]
    assert path == "/v1/models/sentiment/labels/stable/metadata"
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120  # loads, warms up
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert wait < pod_of(only("Deployment"))["terminationGracePeriodSeconds"]


def test_the_server_is_given_flags_that_it_has_and_files_that_are_there():
    kustomization = yaml.safe_load((MODELS / "kustomization.yaml").read_text())
    assert set(kustomization) == {"apiVersion", "kind", "resources", "configMapGenerator"}
    for path in kustomization["resources"]:
        assert (MODELS / path).exists()
    [generated] = kustomization["configMapGenerator"]
    assert set(generated) == {"name", "files", "options"}
    assert generated["options"] == {"disableNameSuffixHash": True}
    [container] = pod_of(only("Deployment"))["containers"]
    kserve = only("InferenceService", "kserve.yaml")["spec"]["predictor"]
    for one, pod in ((container, pod_of(only("Deployment"))), (kserve["model"], kserve)):
        [config] = [v["configMap"] for v in pod["volumes"] if "configMap" in v]
        assert config == {"name": generated["name"]}
        for argument in one["args"]:
            flag, value = argument.removeprefix("--").split("=")
            assert flag in FLAGS
            if flag.endswith("_file"):
                assert value.startswith("/config/")
                assert value.removeprefix("/config/") in generated["files"]
    for file in generated["files"]:
        assert (MODELS / file).exists()
    cores = container["resources"]["limits"]["cpu"]
    for which in ("intra", "inter"):
        assert f"--tensorflow_{which}_op_parallelism={cores}" in container["args"]


# Filling the volume

RCLONE = """#!/bin/sh
# As rclone: sync copies file by file, and fails after one where $BREAK says so; check compares.
case "$2" in store:*) from="$STORE/${2#store:}" ;; esac
[ -d "$from" ] || exit 3
if [ "$1" = check ]; then exec diff -r "$from" "$3"; fi
mkdir -p "$3"
for file in "$from"/*; do
  cp -R "$file" "$3/"
  if [ "${BREAK:-}" ]; then exit 1; fi
done
"""


@pytest.fixture
def fill(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rclone").write_text(RCLONE)
    (tmp_path / "bin" / "rclone").chmod(0o755)
    whole = tmp_path / "store" / "my-bucket" / "models" / "sentiment" / "1"
    (whole / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "fingerprint.pb", "variables/variables.index"):
        (whole / name).write_text(name)
    (tmp_path / "models").mkdir()
    [container] = pod_of(only("Job", "fill.yaml"))["containers"]
    given = {one["name"]: one["value"] for one in container["env"]}
    given["MODELS"], given["STORE"] = str(tmp_path / "models"), str(tmp_path / "store")

    def run(**more):
        paths = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        command = ["sh", *container["command"][1:], *container["args"]]
        return subprocess.run(
            command, env={**given, "PATH": paths, **more}, capture_output=True, text=True
        )

    return run, whole, tmp_path / "models" / "sentiment"


def versions(model):
    """Returns what the server takes for versions: folders whose names are numbers."""
    return sorted(path.name for path in model.glob("*") if path.name.isdecimal())


def test_a_version_appears_whole_or_not_at_all(fill):
    run, whole, model = fill
    broken = run(BREAK="1")
    assert broken.returncode != 0 and versions(model) == []
    assert any(model.rglob("*"))  # half of it is there, under another name
    (next(model.glob(".*")) / "left_over").touch()  # of an older copy: not part of the version
    assert run().returncode != 0 and versions(model) == []
    shutil.rmtree(next(model.glob(".*")))
    assert run().returncode == 0 and versions(model) == ["1"]
    copied = {p.relative_to(model / "1"): p.read_text() for p in (model / "1").rglob("*.*")}
    assert copied == {p.relative_to(whole): p.read_text() for p in whole.rglob("*.*")}


def test_a_version_that_is_there_stays_and_one_that_is_not_stored_is_an_error(fill):
    run, whole, model = fill
    assert run().returncode == 0
    (whole / "saved_model.pb").write_text("another")
    again = run()
    assert again.returncode == 0 and "there already" in again.stdout
    assert (model / "1" / "saved_model.pb").read_text() == "saved_model.pb"
    assert run(VERSION="7").returncode != 0 and versions(model) == ["1"]
    shutil.copytree(whole, whole.with_name("2"))
    (whole.with_name("2") / "saved_model.pb").unlink()
    refused = run(VERSION="2")
    assert refused.returncode != 0 and "holds no saved_model.pb" in refused.stderr
    assert versions(model) == ["1"]


# KServe

PREDICTOR = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "model"}  # not of a pod
MODEL = {"modelFormat", "runtime", "runtimeVersion", "storageUri"}  # not of a container


def test_kserve_serves_the_same_model_with_the_same_server():
    service = only("InferenceService", "kserve.yaml")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert set(service) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(service["spec"]) == {"predictor"}
    predictor = copy.deepcopy(service["spec"]["predictor"])
    model = predictor["model"]
    assert set(predictor) >= PREDICTOR and set(model) >= MODEL
    container = {key: value for key, value in model.items() if key not in MODEL}
    pod = {key: value for key, value in predictor.items() if key not in PREDICTOR}
    pod["containers"] = [{**container, "name": "kserve-container"}]
    checked({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod})
    check_restricted(pod, [container])
    assert model["modelFormat"] == {"name": "tensorflow"}
    [serving] = pod_of(only("Deployment"))["containers"]
    assert serving["image"].endswith(f":{model['runtimeVersion']}")
    assert container["resources"] == serving["resources"]
    assert service["metadata"]["name"] == "sentiment" == model["storageUri"].rpartition("/")[2]
    scale = only("HorizontalPodAutoscaler")["spec"]
    for bound in ("minReplicas", "maxReplicas"):
        assert predictor[bound] == scale[bound]
    target = scale["metrics"][0]["resource"]["target"]["averageUtilization"]
    assert predictor["scaleMetric"] == "cpu" and predictor["scaleTarget"] == target


# Alarms and the dashboard


def selectors(node):
    """Yields the metrics of a parsed expression with the labels that choose among their series."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, {matcher.name for matcher in node.matchers.matchers}
    for child in ("expr", "lhs", "rhs", "vector_selector", "vs"):
        if not isinstance(node, promql_parser.VectorSelector) and hasattr(node, child):
            yield from selectors(getattr(node, child))
    for argument in getattr(node, "args", ()):
        yield from selectors(argument)


def check_query(query):
    """Checks that a query parses and asks for metrics and labels that there are."""
    found = list(selectors(promql_parser.parse(query.replace("$__rate_interval", "5m"))))
    assert {name for name, _ in found} >= set(re.findall(r":tensorflow:[\w:]+", query)) and found
    for name, labels in found:
        if name == "up":  # Prometheus's own
            assert labels <= {"job"}
        else:
            assert name in SERVER_METRICS, name
            assert labels <= SERVER_METRICS[name], name
    known = set().union(*(SERVER_METRICS.get(name, {"job"}) for name, _ in found)) | TARGET
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        assert {label.strip() for label in grouped.split(",")} <= known, query
    return {name for name, _ in found}


def rules():
    document = only("PrometheusRule", "monitoring.yaml")
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    assert document["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(document["spec"]) == {"groups"}
    [group] = document["spec"]["groups"]
    assert set(group) == {"name", "rules"}
    return group["rules"]


def test_alarms_ask_for_metrics_that_the_server_has():
    asked = set()
    for rule in rules():
        assert {"alert", "expr", "labels", "annotations"} <= set(rule)
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[sm]", rule.get("for", "0s"))
        assert set(rule["labels"]) == {"severity"}
        assert set(rule["annotations"]) == {"summary", "description"}
        asked |= check_query(rule["expr"])
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            grouped = re.findall(r"by \(([^)]*)\)", rule["expr"])
            kept = [{name.strip() for name in one.split(",")} for one in grouped]
            assert all(label in labels for labels in kept), rule["alert"]
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for name in ("request_count", "request_latency", "processed_batch_size"):  # of the README
        assert any(name in metric for metric in asked)


def test_what_is_no_metric_of_the_server_is_noticed():
    for query in (
        "rate(:tensorflow:serving:requests[5m])",
        'rate(:tensorflow:serving:request_count{code="OK"}[5m])',
        "sum by (code) (rate(:tensorflow:serving:request_count[5m]))",
    ):
        with pytest.raises(AssertionError):
            check_query(query)
    with pytest.raises(ValueError):
        check_query("rate(:tensorflow:serving:request_count[5m]")


def test_the_stand_in_reports_metrics_with_the_server_s_names_and_labels():
    metrics = stand_in_metrics.Metrics()
    metrics.record("sentiment", "OK", "REST", 0.01)
    for line in metrics.page().splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"([\w:]+)\{(.*)\}", line).groups()
            assert set(re.findall(r'(\w+)="', labels)) == SERVER_METRICS[name]


def test_prometheus_reads_where_the_server_reports():
    monitor = only("PodMonitor", "monitoring.yaml")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"selector", "podMetricsEndpoints"}
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert set(endpoint) == {"port", "path", "interval"}
    [container] = pod_of(only("Deployment"))["containers"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
    assert f'path: "{endpoint["path"]}"' in (MODELS / "monitoring.config").read_text()
    annotations = only("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == endpoint["path"]
    for rule in rules():  # the operator's name of the job: namespace/name of the PodMonitor
        for job in re.findall(r'job=~"([^"]*)"', rule["expr"]):
            assert re.fullmatch(job, f"default/{monitor['metadata']['name']}")


def test_the_autoscaler_by_requests_is_given_its_metric():
    values = yaml.safe_load((FOLDER / "adapter_values.yaml").read_text())
    [rule] = values["rules"]["custom"]
    assert set(rule) == {"seriesQuery", "resources", "name", "metricsQuery"}
    [(series, labels)] = selectors(promql_parser.parse(rule["seriesQuery"]))
    assert series in SERVER_METRICS and labels <= TARGET
    query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
    assert check_query(query.replace("<<.LabelMatchers>>", "")) == {series}
    [metric] = only("HorizontalPodAutoscaler", "autoscaler_by_requests.yaml")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]


UNITS = {"reqps", "percentunit", "µs", "short", "ops"}  # of Grafana's `valueFormats`
PANEL = {
    "id", "type", "title", "description", "datasource", "gridPos", "fieldConfig", "options",
    "targets",
}  # fmt: skip


def test_the_dashboard_is_one_and_asks_for_metrics_that_the_server_has():
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    assert {"uid", "title", "schemaVersion", "time", "templating", "panels"} <= set(dashboard)
    assert "id" not in dashboard and len(dashboard["uid"]) <= 40  # the id is Grafana's to give
    source, model = dashboard["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    metric, label = re.fullmatch(r"label_values\((\S+), (\w+)\)", model["query"]).groups()
    assert label in SERVER_METRICS[metric]
    variables, taken = {"source", "model", "__rate_interval"}, set()
    for panel in dashboard["panels"]:
        assert set(panel) == PANEL and panel["type"] == "timeseries" and panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["datasource"] == {"type": "prometheus", "uid": f"${{{source['name']}}}"}
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken
        taken |= cells
        for target in panel["targets"]:
            assert set(target) == {"refId", "datasource", "expr", "legendFormat"}
            assert target["datasource"] == panel["datasource"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables
            check_query(target["expr"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
