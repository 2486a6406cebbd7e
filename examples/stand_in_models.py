"""The models of the stand-in server: which versions are wanted, loaded, labelled and asked.

A change of `models.config` is applied as TensorFlow Serving applies it: labels first, and only if
all of them are allowed, then versions. If a base path begins with /models, the folder of the file
takes its place, because the container has the folder mounted there.
"""

import contextlib
import pathlib
import re
import threading

import c_session
import stand_in_batching
import stand_in_config
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2


class Version:
    """A loaded version. A retired version closes when its last call has ended."""

    def __init__(self, path, batching):
        self._session = c_session.Session(path, meta_graph_pb2.MetaGraphDef)
        self._batching, self.signatures = batching, self._session.signatures
        self._asking, self._retired, self._lock = 0, False, threading.Lock()
        records = path / "assets.extra" / "tf_serving_warmup_requests"
        if records.exists():  # warm-up before the version is available, as in the server
            for record in c_session.read_records(records):
                request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
                inputs = {k: c_session.from_proto(v, k) for k, v in request.inputs.items()}
                self.run(request.model_spec.signature_name, inputs)

    def run(self, signature, inputs, outputs=(), timeout_ms=0):
        return stand_in_batching.run(
            self._session, self._batching, signature, inputs, outputs, timeout_ms
        )

    def refuse(self, name, verb):
        """Raises what the server says when it is asked to `classify` or `regress` examples.

        The exported models have no signature for it: its input would have the name `inputs`.
        """
        name = name or "serving_default"
        if name not in self.signatures:
            raise c_session.RequestError(f"No signature was found with the name: {name}")
        signature = self.signatures[name]
        if len(signature.inputs) != 1:
            raise c_session.RequestError("Expected one input Tensor.")
        outputs = len(signature.outputs)
        if verb == "classify" and outputs not in (1, 2):
            raise c_session.RequestError(f"Expected one or two output Tensors, found {outputs}")
        if verb == "regress" and outputs != 1:
            raise c_session.RequestError("Expected one output Tensor.")
        if "inputs" not in signature.inputs:
            kind = {"classify": "classification", "regress": "regression"}[verb]
            raise c_session.RequestError(f"No {kind} inputs found in SignatureDef: {signature}")
        raise c_session.RequestError("The stand-in answers no examples.", "UNIMPLEMENTED")

    def start_use(self):
        """Returns whether it may be used: True until it is retired. `end_use` must follow."""
        with self._lock:
            self._asking += not self._retired
            return not self._retired

    def end_use(self):
        with self._lock:
            self._asking -= 1
            last = self._retired and not self._asking
        if last:
            self._session.close()

    def retire(self):
        with self._lock:
            self._retired, idle = True, not self._asking
        if idle:
            self._session.close()


class Models:
    """All models of a configuration file, which is read again at every `refresh`.

    Args:
        config_file: The path of a `models.config`.
        labels_first: The server's `--allow_version_labels_for_unavailable_models`: whether a new
            label may be given to a version that is not loaded yet.

    Raises:
        RequestError: If the file is refused, or no version of a model can be loaded. A server that
            is starting then ends.
    """

    def __init__(self, config_file, labels_first=True):
        self.file, self._labels_first = pathlib.Path(config_file), labels_first
        self._batching = stand_in_config.read_batching(self.file.with_name("batching.config"))
        self._configs, self._labels, self._loaded = {}, {}, {}
        self._states = {}  # name to version to (state, code, message): of every version ever seen
        self.refresh()
        failed = [
            f"{{{{name: {name} version: {max(versions)}}} due to error: {code}: {message}}}, "
            for name, versions in self._states.items()
            if not self._loaded.get(name)
            for _, code, message in [versions[max(versions)]]
        ]
        if failed:
            raise c_session.RequestError(
                f"{len(failed)} servable(s) did not become available: {{{''.join(failed)}}}",
                "UNKNOWN",
            )

    def refresh(self):
        """Applies the file, or nothing of it, and then looks for versions.

        Raises:
            RequestError: With the server's words. The models applied before are still served.
        """
        try:
            config = stand_in_config.read_models(self.file)
            if not config.WhichOneof("config"):  # an empty file
                if not self._configs:
                    return
                raise c_session.RequestError(
                    "Cannot transition to requested config. It is only legal to transition from "
                    "one ModelConfigList to another.",
                    "FAILED_PRECONDITION",
                )
            configs = {model.name: model for model in config.model_config_list.config}
            self._labels = self._checked_labels(configs)
            self._configs = configs
        finally:
            self._load_and_unload()

    def _checked_labels(self, configs):
        """Returns model to label to version, or raises if a label may not have its version."""
        for name, config in configs.items():
            for label, version in config.version_labels.items():
                in_use = self._labels.get(name, {}).get(label, version) != version
                if (in_use or not self._labels_first) and not self._is_available(name, version):
                    raise c_session.RequestError(
                        f"Request to assign label to version {version} of model {name}, which is "
                        "not currently available for inference",
                        "FAILED_PRECONDITION",
                    )
        return {name: dict(config.version_labels) for name, config in configs.items()}

    def _is_available(self, name, version):
        return version in self._loaded.get(name, {})

    def _load_and_unload(self):
        """Loads the wanted versions, and only then unloads the others."""
        wanted = {name: self._wanted(config) for name, config in self._configs.items()}
        for name in [*self._loaded, *wanted]:
            paths = wanted.get(name, {})
            for number, (state, *_) in list(self._states.get(name, {}).items()):
                if state == "END" and number not in paths:
                    self._say(name, number, "END")  # drops the failure of a version not wanted now
            for number in sorted(paths, reverse=True):
                self._load(name, number, paths[number])
            self._unload(name, paths)

    def _load(self, name, number, path):
        before = self._states.get(name, {}).get(number, ("END", "OK", ""))
        if before[0] == "AVAILABLE" or before[1] != "OK":
            return
        self._say(name, number, "LOADING")
        try:
            version = Version(path, self._batching)
        except Exception as error:  # the older versions are still served
            self._say(name, number, "END", getattr(error, "code", "UNKNOWN"), str(error))
            return
        self._loaded = {**self._loaded, name: {**self._loaded.get(name, {}), number: version}}
        self._say(name, number, "AVAILABLE")

    def _unload(self, name, paths):
        """Unloads versions that are not wanted. The last version stays until another is loaded."""
        loaded = self._loaded.get(name, {})
        others = sorted(set(loaded) - set(paths))
        if paths and not set(loaded) & set(paths):
            others = others[:-1]
        kept = {number: version for number, version in loaded.items() if number not in others}
        self._loaded = {**self._loaded, name: kept}
        for number in others:
            loaded[number].retire()
            self._say(name, number, "END")

    def _say(self, name, number, state, code="OK", message=""):
        states = {**self._states.get(name, {}), number: (state, code, message)}
        self._states = {**self._states, name: states}

    def _wanted(self, config):
        base = pathlib.Path(config.base_path)
        with contextlib.suppress(ValueError):
            base = self.file.parent / base.relative_to("/models")
        if not base.exists():
            raise c_session.RequestError(
                f"Could not find base path {config.base_path} for servable {config.name} with "
                f"error NOT_FOUND: {config.base_path} not found"
            )
        names = (p for p in sorted(base.glob("*")) if re.fullmatch("[0-9]+", p.name))
        found = {int(p.name): p for p in names if int(p.name) < 1 << 63}
        policy = config.model_version_policy
        if policy.HasField("all"):
            return found
        if policy.HasField("specific"):
            return {n: found[n] for n in policy.specific.versions if n in found}
        newest = sorted(found)[-(policy.latest.num_versions or 1) :]
        return {n: found[n] for n in newest}

    @contextlib.contextmanager
    def asked(self, name, version=None, label=None):
        """Yields the number and the `Version`. Default: the newest loaded version."""
        if not name:
            raise c_session.RequestError("ModelSpec has no name specified.")
        if label is not None:
            if label not in self._labels.get(name, {}):
                raise c_session.RequestError(f"Unrecognized servable version label: {label}")
            version = self._labels[name][label]
        while True:  # a version may be retired before its use begins
            loaded = self._loaded.get(name, {})
            number = max(loaded, default=None) if version is None else version
            if number not in loaded:
                request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise c_session.RequestError(
                    f"Servable not found for request: {request}", "NOT_FOUND"
                )
            if loaded[number].start_use():
                break
        try:
            yield number, loaded[number]
        finally:
            loaded[number].end_use()

    def status(self, name, version=None):
        """Returns version to `(state, code, message)`, the newest first."""
        states = self._states.get(name, {})
        if not states:
            raise c_session.RequestError(
                f"Could not find any versions of model {name}", "NOT_FOUND"
            )
        if version is not None and version not in states:
            raise c_session.RequestError(
                f"Could not find version {version} of model {name}", "NOT_FOUND"
            )
        numbers = sorted(states, reverse=True) if version is None else [version]
        return {number: states[number] for number in numbers}
