"""Prometheus metrics for /metrics. No label contains text from users."""

from __future__ import annotations

from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one server, in a separate registry.

    Attributes:
        requests: requests by route, method and status.
        refused: refused requests by reason.
        request_seconds: duration of requests by route.
        queue_depth: photos in the queue.
        in_flight, in_flight_bytes: requests that are arriving or working, and the bytes of their bodies.
        wait_seconds: time of photos in the queue.
        batch_size: photos per batch.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "anytag_requests", "Requests", ["route", "method", "status"], registry=registry
        )
        self.refused = Counter("anytag_refused", "Refused requests", ["reason"], registry=registry)
        self.request_seconds = Histogram(
            "anytag_request_seconds", "Seconds per request", ["route"], buckets=_SECONDS, registry=registry
        )
        self.queue_depth = Gauge("anytag_queue_depth", "Photos in the queue", registry=registry)
        self.in_flight = Gauge(
            "anytag_requests_in_flight", "Requests that are arriving or in progress", registry=registry
        )
        self.in_flight_bytes = Gauge(
            "anytag_bytes_in_flight", "Bytes of the bodies of requests in flight", registry=registry
        )
        self.wait_seconds = Histogram(
            "anytag_queue_wait_seconds", "Seconds in the queue", buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "anytag_batch_size", "Photos per batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self._stages = Histogram(
            "anytag_stage_seconds", "Seconds per stage", ["stage"], buckets=_SECONDS, registry=registry
        )

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Time a stage: encode (a batch, decoding included) or answer (a photo)."""
        return self._stages.labels(name).time()

    def text(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self._registry)
