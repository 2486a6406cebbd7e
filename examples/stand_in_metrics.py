"""Counts requests and their latencies as TensorFlow Serving does, in Prometheus's format."""

import bisect
import collections
import threading

COUNT = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"
LIMITS = [10 * 1.8**power for power in range(33)]  # microseconds


class Metrics:
    """The counts of one server."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts, self._latencies = collections.Counter(), {}

    def record(self, model, code, entrypoint, seconds, api="predict"):
        """Counts a request. Its time counts only if the request was answered."""
        with self._lock:
            self._counts[model, code] += 1
            if code == "OK":
                key = (model, api, entrypoint)
                buckets, total = self._latencies.get(key, ([0] * (len(LIMITS) + 1), 0.0))
                buckets[bisect.bisect(LIMITS, seconds * 1e6)] += 1
                self._latencies[key] = buckets, total + seconds * 1e6

    def page(self):
        """Returns the text that Prometheus reads."""
        with self._lock:
            lines = [f"# TYPE {COUNT} counter"]
            for (model, code), count in sorted(self._counts.items()):
                lines.append(f'{COUNT}{{model_name="{_escaped(model)}",status="{code}"}} {count}')
            lines.append(f"# TYPE {LATENCY} histogram")
            for (model, api, entrypoint), (buckets, total) in sorted(self._latencies.items()):
                labels = f'model_name="{_escaped(model)}",API="{api}",entrypoint="{entrypoint}"'
                so_far = 0
                for limit, count in zip([*LIMITS, "+Inf"], buckets, strict=True):
                    so_far += count
                    shown = limit if limit == "+Inf" else f"{limit:g}"
                    lines.append(f'{LATENCY}_bucket{{{labels},le="{shown}"}} {so_far}')
                lines += [f"{LATENCY}_sum{{{labels}}} {total:g}"]
                lines += [f"{LATENCY}_count{{{labels}}} {so_far}"]
        return "\n".join(lines) + "\n"


def _escaped(text):
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
