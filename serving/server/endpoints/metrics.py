"""The server's counters, in Prometheus' text format and under TensorFlow Serving's names.

Written here because Prometheus' Python library appends `_total` to counters, which would break dashboards made for the
real server.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/servables/tensorflow/util.cc
"""

import bisect
import collections
import dataclasses
import math
import threading

_MICROS = tuple(10 * 1.8**power for power in range(33))  # the real server's bounds of latencies
_COUNTS = tuple(2.0**power for power in range(15))

MOST_NAMES, LONGEST_NAME, OTHERS = 1000, 200, "(others)"  # of models, whether they are there or not

Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def absorb(self, other: "_Histogram") -> None:
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


@dataclasses.dataclass
class Counts:
    """What was counted, by name and labels; a process can give it to another."""

    counters: dict[str, collections.defaultdict[Labels, float]] = dataclasses.field(
        default_factory=lambda: {
            name: collections.defaultdict(float) for name in ("request_count", "request_example_count_total")
        }
    )
    histograms: dict[str, dict[Labels, _Histogram]] = dataclasses.field(
        default_factory=lambda: {name: {} for name in ("request_example_counts", "request_latency", "runtime_latency")}
    )


class Metrics:
    """Counters and histograms; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()
        self._known: set[str] = set()  # names of models that have answered
        self._names: set[str] = set()  # that requests have named besides

    def request(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Counts a request.

        Args:
          model: the name that it asks for, of a model that is there or not.
          api: `Predict` and the like.
          entrypoint: `GRPC` or `REST`.
          status: the name of its status; how long it took is kept of what was answered.
          seconds: how long it took.
        """
        with self._lock:
            if status == "OK":
                self._known.add(model)
            name = self._counted_name(model)
            self._counts.counters["request_count"][(("model_name", name), ("status", status))] += 1
            if status == "OK":
                labels = (("model_name", name), ("API", api), ("entrypoint", entrypoint))
                self._observe("request_latency", labels, 1e6 * seconds, _MICROS)

    def runtime(self, model: str, api: str, seconds: float) -> None:
        """Counts a run in TensorFlow's session."""
        with self._lock:
            labels = (("model_name", model), ("API", api), ("runtime", "TF1"))
            self._observe("runtime_latency", labels, 1e6 * seconds, _MICROS)

    def examples(self, model: str, count: int) -> None:
        """Counts a request's tf.Examples."""
        with self._lock:
            self._counts.counters["request_example_count_total"][(("model", model),)] += count
            self._observe("request_example_counts", (("model", model),), count, _COUNTS)

    def take(self) -> Counts:
        """Returns everything, and begins at zero."""
        with self._lock:
            taken, self._counts = self._counts, Counts()
            return taken

    def absorb(self, counts: Counts) -> None:
        """Adds what another has counted."""
        with self._lock:
            for name, by_labels in counts.counters.items():
                for labels, count in by_labels.items():
                    if ("status", "OK") in labels:
                        self._known.add(labels[0][1])
                    self._counts.counters[name][self._counted(labels)] += count
            for name, histograms in counts.histograms.items():
                for labels, histogram in histograms.items():
                    self._histogram(name, self._counted(labels), histogram.bounds).absorb(histogram)

    def text(self) -> str:
        """Returns everything in Prometheus' text format."""
        with self._lock:
            lines: list[str] = []
            for name, by_labels in sorted(self._counts.counters.items()):
                lines.append(f"# TYPE :tensorflow:serving:{name} counter")
                lines += [f":tensorflow:serving:{name}{_braces(k)} {_number(v)}" for k, v in by_labels.items()]
            for name, by_histogram in sorted(self._counts.histograms.items()):
                lines.append(f"# TYPE :tensorflow:serving:{name} histogram")
                for labels, histogram in by_histogram.items():
                    lines += _histogram_lines(f":tensorflow:serving:{name}", labels, histogram)
            return "\n".join(lines) + "\n"

    def _counted_name(self, model: str) -> str:
        """Returns the name that a request is counted under: anybody may ask for any name, and each takes memory."""
        if model not in self._known and model not in self._names:
            if len(self._names) >= MOST_NAMES or len(model) > LONGEST_NAME:
                return OTHERS
            self._names.add(model)
        return model

    def _counted(self, labels: Labels) -> Labels:
        (name, model), *others = labels
        return ((name, self._counted_name(model)), *others)

    def _observe(self, name: str, labels: Labels, value: float, bounds: tuple[float, ...]) -> None:
        self._histogram(name, labels, bounds).add(value)

    def _histogram(self, name: str, labels: Labels, bounds: tuple[float, ...]) -> _Histogram:
        by_labels = self._counts.histograms[name]
        if labels not in by_labels:
            by_labels[labels] = _Histogram(bounds)
        return by_labels[labels]


def _histogram_lines(name: str, labels: Labels, histogram: _Histogram) -> list[str]:
    lines, total = [], 0
    for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
        total += count
        lines.append(f"{name}_bucket{_braces((*labels, ('le', _number(bound))))} {total}")
    return [*lines, f"{name}_sum{_braces(labels)} {_number(histogram.sum)}", f"{name}_count{_braces(labels)} {total}"]


def _braces(labels: Labels) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels) + "}"


def _number(value: float) -> str:
    return "+Inf" if value == math.inf else f"{value:.10g}"
