"""The latest value of every metric, as Prometheus scrapes it.

Names keep their words: dots become underscores. Values of metrics that are then named `..._total` are the source's own
running totals, so they are exposed as counters; everything else is a gauge. The number of series is bounded, and gauges
of a source that is silent, or of a run that has ended, go after a while: a value that nobody measures is none.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from esper.core.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from esper.core.telemetry import attribute_value
from esper.leyline import Metric
from esper.nissa.patience import Patience

MAX_SERIES = 4096
# What is older than the value before it by more than this wasn't overtaken: its source's clock was set back.
MOST_OVERTAKEN_NS = 60 * NS_PER_S
_SEPARATORS = re.compile(r"[^a-zA-Z0-9_]")
Labels = tuple[tuple[str, str], ...]
TOTAL = "_total"


def prometheus_name(name: str) -> str:
    """`kasmina.seed.alpha` -> `kasmina_seed_alpha`."""
    return _SEPARATORS.sub("_", name)


class LatestValues(Collector):
    """A collector of what was last measured. When full, the series that was silent for longest goes."""

    def __init__(
        self, max_series: int = MAX_SERIES, clock: Clock = SYSTEM_CLOCK, patience: Patience | None = None
    ) -> None:
        self._max_series = max_series
        self._clock = clock
        self._patience = patience or Patience()
        self._due_ns: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._series: OrderedDict[tuple[str, Labels], tuple[float, int]] = OrderedDict()
        self.evicted = 0

    def put(self, metric: Metric, source: str, run: str = "", measured_ns: int = 0) -> None:
        """Take a measurement of that Unix time; an older one that urgent news overtook changes nothing."""
        measured = [(attribute.key, str(attribute_value(attribute))) for attribute in metric.attributes]
        key = (metric.name, tuple(sorted([*measured, ("source", source), ("run", run)])))
        with self._lock:
            self._due_ns[source, run] = self._in(self._patience.seconds(run))
            if not 0 < self._series.get(key, (0.0, 0))[1] - measured_ns < MOST_OVERTAKEN_NS:
                self._series[key] = metric.value, measured_ns
            self._series.move_to_end(key)
            if len(self._series) > self._max_series:
                self._series.popitem(last=False)
                self.evicted += 1

    def end(self, run: str) -> None:
        """A run is over."""
        with self._lock:
            for place, due_ns in self._due_ns.items():
                if place[1] == run:
                    self._due_ns[place] = min(due_ns, self._in(self._patience.seconds(run)))

    def collect(self) -> Iterator[Family]:
        with self._lock:
            self._forget_silent()
            snapshot = list(self._series.items())
        families: dict[str, list[tuple[dict[str, str], float]]] = {}
        for (name, labels), (value, _) in snapshot:
            families.setdefault(name, []).append((dict(labels), value))
        for name, series in families.items():
            keys = sorted({key for labels, _ in series for key in labels})
            exposed = prometheus_name(name)
            make = CounterMetricFamily if exposed.endswith(TOTAL) else GaugeMetricFamily
            family = make(exposed, f"Latest value of {name}.", labels=keys)
            for found, value in series:
                family.add_metric([found.get(key, "") for key in keys], value)
            yield family

    def _forget_silent(self) -> None:
        """Forget gauges that nobody measures any more. Counters stay: one that came back would look like a new one."""
        now_ns = self._clock.monotonic_ns()
        silent = {place for place, due_ns in self._due_ns.items() if due_ns <= now_ns}
        if not silent:
            return
        for key in [key for key in self._series if _place(key[1]) in silent]:
            if not prometheus_name(key[0]).endswith(TOTAL):
                del self._series[key]
        for place in silent:
            del self._due_ns[place]

    def _in(self, seconds: float) -> int:
        return self._clock.monotonic_ns() + round(seconds * NS_PER_S)


def _place(labels: Labels) -> tuple[str, str]:
    """Source and run of a series."""
    found = dict(labels)
    return found["source"], found["run"]
