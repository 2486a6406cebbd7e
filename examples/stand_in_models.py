"""The models of the stand-in server: which versions are wanted, loaded, and asked.

Reads `models.config` as TensorFlow Serving does; where a base path begins with /models, the folder
of the file stands for it, as the folder is mounted there in the container.
"""

import contextlib
import pathlib
import threading

import c_session
from google.protobuf import text_format
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2


class NotFoundError(KeyError):
    """No such model, version, label or signature is being served."""


class Version:
    """A loaded version, in use or to be closed once nobody asks it any more."""

    def __init__(self, path):
        self.session = c_session.Session(path, meta_graph_pb2.MetaGraphDef)
        self._asking, self._retired, self._lock = 0, False, threading.Lock()
        records = path / "assets.extra" / "tf_serving_warmup_requests"
        if records.exists():  # before it is available, as the server does
            for record in c_session.read_records(records):
                request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
                inputs = {k: c_session.from_proto(v) for k, v in request.inputs.items()}
                self.session.run(request.model_spec.signature_name, inputs)

    @contextlib.contextmanager
    def in_use(self):
        with self._lock:
            if self._retired:
                raise NotFoundError("the version is being unloaded")
            self._asking += 1
        try:
            yield self.session
        finally:
            with self._lock:
                self._asking -= 1
                last = self._retired and not self._asking
            if last:
                self.session.close()

    def retire(self):
        with self._lock:
            self._retired, idle = True, not self._asking
        if idle:
            self.session.close()


class Models:
    """All models of a configuration file, which is read again at every `refresh`.

    Args:
        config_file: The path of a `models.config`.
    """

    def __init__(self, config_file):
        self._file = pathlib.Path(config_file)
        self._configs, self._loaded, self._failed = {}, {}, {}
        self.refresh()

    def refresh(self):
        """Loads the versions that are wanted now, and only then lets go of the others."""
        config = text_format.Parse(
            self._file.read_text(), model_server_config_pb2.ModelServerConfig()
        )
        configs = {one.name: one for one in config.model_config_list.config}
        wanted = {name: self._wanted(one) for name, one in configs.items()}
        before = self._loaded
        loaded = {name: dict(before.get(name, {})) for name in configs}
        for name, paths in wanted.items():
            for number, path in paths.items():
                if number in loaded[name] or (name, number) in self._failed:
                    continue
                try:
                    loaded[name][number] = Version(path)
                except Exception as error:  # the older versions go on
                    self._failed[name, number] = str(error)
            if any(number in loaded[name] for number in paths):
                loaded[name] = {n: v for n, v in loaded[name].items() if n in paths}
        kept = {id(one) for versions in loaded.values() for one in versions.values()}
        self._configs, self._loaded = configs, loaded
        for versions in before.values():
            for one in versions.values():
                if id(one) not in kept:
                    one.retire()

    def _wanted(self, config):
        base = pathlib.Path(config.base_path)
        with contextlib.suppress(ValueError):
            base = self._file.parent / base.relative_to("/models")
        found = {int(p.name): p for p in base.glob("*") if p.name.isdecimal()}
        policy = config.model_version_policy
        if policy.HasField("all"):
            return found
        if policy.HasField("specific"):
            return {n: found[n] for n in policy.specific.versions if n in found}
        newest = sorted(found)[-(policy.latest.num_versions or 1) :]
        return {n: found[n] for n in newest}

    @contextlib.contextmanager
    def asked(self, name, version=None, label=None):
        """Yields the number and the session of a version; default: the newest one loaded."""
        while True:
            number = self._number(name, version, label)
            try:
                in_use = self._loaded[name][number].in_use()
                session = in_use.__enter__()
                break
            except (
                NotFoundError,
                KeyError,
            ):  # replaced between the two lines above: ask what is there
                if version is not None:
                    raise NotFoundError(
                        f"Servable not found for request: {name}/{number}"
                    ) from None
        try:
            yield number, session
        finally:
            in_use.__exit__(None, None, None)

    def _number(self, name, version, label):
        loaded = self._loaded.get(name, {})
        if label is not None:
            labels = self._configs[name].version_labels if name in self._configs else {}
            if label not in labels:
                raise NotFoundError(f"Unrecognized servable version label: {label}")
            version = labels[label]
        if version is None and not loaded:
            raise NotFoundError(f"Servable not found for request: Latest({name})")
        if version is not None and version not in loaded:
            raise NotFoundError(f"Servable not found for request: Specific({name}, {version})")
        return max(loaded) if version is None else version

    def status(self, name, version=None, label=None):
        """Returns version to `(state, error message)`."""
        if name not in self._configs:
            raise NotFoundError(f"Could not find any versions of model {name}")
        states = {n: ("AVAILABLE", "") for n in self._loaded[name]}
        failed = {n: message for (model, n), message in self._failed.items() if model == name}
        states |= {n: ("END", message) for n, message in failed.items()}
        if label is not None:
            version = self._number(name, None, label)
        if version is not None:
            states = {n: state for n, state in states.items() if n == version}
        if not states:
            raise NotFoundError(f"Could not find version {version} of model {name}")
        return states
