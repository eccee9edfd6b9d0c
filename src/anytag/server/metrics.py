"""What Prometheus reads at /metrics. No label holds a user's text."""

from __future__ import annotations

from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one server, in a registry of their own.

    Attributes:
        requests: by route, method and status.
        refused: requests that were refused before their work, by reason.
        queue_depth: photos that wait.
        wait_seconds: how long photos waited.
        batch_size: photos that went through the network together.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "anytag_requests", "Requests", ["route", "method", "status"], registry=registry
        )
        self.refused = Counter(
            "anytag_refused", "Requests refused before their work", ["reason"], registry=registry
        )
        self.request_seconds = Histogram(
            "anytag_request_seconds", "Seconds a request", ["route"], buckets=_SECONDS, registry=registry
        )
        self.queue_depth = Gauge("anytag_queue_depth", "Photos that wait", registry=registry)
        self.in_flight = Gauge(
            "anytag_requests_in_flight", "Requests that arrive or are in work", registry=registry
        )
        self.in_flight_bytes = Gauge("anytag_bytes_in_flight", "Bytes of their bodies", registry=registry)
        self.wait_seconds = Histogram(
            "anytag_queue_wait_seconds", "Seconds in the queue", buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "anytag_batch_size", "Photos a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self._stages = Histogram(
            "anytag_stage_seconds", "Seconds a batch", ["stage"], buckets=_SECONDS, registry=registry
        )

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Measures a stage of the work: encode (decoding included) or answer."""
        return self._stages.labels(name).time()

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)
