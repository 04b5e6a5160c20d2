"""What Prometheus scrapes at ``/metrics``. Every metric is listed in ``docs/reference/serving.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from surefoot.serving.status import ServingStatus

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one gateway process, and at a scrape the supervisor's status as gauges."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.in_flight = Gauge("surefoot_requests_in_flight", "Requests being answered", registry=self._registry)
        self._requests = Counter(
            "surefoot_requests", "Requests by HTTP status", ["model", "operation", "code"], registry=self._registry
        )
        self._latency = Histogram(
            "surefoot_request_duration_seconds",
            "From the request's head to its answer, successful requests",
            ["model", "operation"],
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._request_children: dict[tuple[str, str, int], Counter] = {}
        self._latency_children: dict[tuple[str, str], Histogram] = {}
        self._status: ServingStatus | None = None
        self._registry.register(_FromStatus(lambda: self._status))

    def request(self, model: str, operation: str, code: int) -> None:
        """Count one request. ``model`` is empty where there is none of that name."""
        key = (model, operation, code)
        child = self._request_children.get(key)
        if child is None:
            child = self._request_children[key] = self._requests.labels(model, operation, str(code))
        child.inc()

    def latency(self, model: str, operation: str, seconds: float) -> None:
        """Count how long a successful request took."""
        key = (model, operation)
        child = self._latency_children.get(key)
        if child is None:
            child = self._latency_children[key] = self._latency.labels(*key)
        child.observe(seconds)

    def exposition(self, status: ServingStatus | None) -> bytes:
        """The text that Prometheus reads. Without a status only this process's own figures are in it."""
        self._status = status
        return generate_latest(self._registry)


class _FromStatus(Collector):
    """What only the supervisor knows, as it was at the scrape."""

    def __init__(self, current: Callable[[], ServingStatus | None]) -> None:
        self._current = current

    def collect(self) -> Iterable[Metric]:
        status = self._current()
        if status is None:
            return
        labels = ["model", "version", "slot", "variant", "runtime", "provider", "digest"]
        info = GaugeMetricFamily("surefoot_model_info", "What serves, always 1", labels=labels)
        ready = GaugeMetricFamily("surefoot_model_ready", "1 if a worker serves the model", labels=["model"])
        memory = GaugeMetricFamily("surefoot_worker_memory_bytes", "Resident after the load", labels=["model"])
        restarts = CounterMetricFamily("surefoot_worker_restarts", "Workers started after a death", labels=["model"])
        shadow = CounterMetricFamily(
            "surefoot_shadow_inferences", "Inputs that a shadow was meant to see", labels=["model", "version", "result"]
        )
        rotten = GaugeMetricFamily(
            "surefoot_rotten_files", "Files that were not what was installed, at the latest scrub", labels=["model"]
        )
        for model in status.models:
            if model.scrub is not None:
                rotten.add_metric([model.name], len(model.scrub.rotten))
            for result in ("agreed", "disagreed", "failed", "skipped") if model.shadow is not None else ():
                count = getattr(model.shadow, result)
                shadow.add_metric([model.name, model.shadow.version if model.shadow else "", result], count)
            ready.add_metric([model.name], float(model.ready))
            restarts.add_metric([model.name], model.restarts)
            if model.ready:
                values = (
                    model.name,
                    model.version,
                    model.slot,
                    model.variant,
                    model.runtime,
                    model.provider,
                    model.digest,
                )
                info.add_metric([value or "" for value in values], 1)
                memory.add_metric([model.name], model.memory_bytes)
        gateway = CounterMetricFamily("surefoot_gateway_restarts", "Gateways started after a death")
        gateway.add_metric([], status.gateway_restarts)
        yield from (info, ready, memory, restarts, shadow, rotten, gateway)
