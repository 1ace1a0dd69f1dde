"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONTENT_TYPE: str = CONTENT_TYPE_LATEST


class Figures:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self._requests = Counter("irpo_requests", "Requests by route and status.", ["route", "status"], **own)
        self._seconds = Histogram("irpo_request_seconds", "From request to answer.", ["route"], buckets=_SECONDS, **own)
        self._documents = Counter("irpo_documents", "Documents ranked.", **own)
        self._tokens = Counter("irpo_tokens", "Tokens of queries and documents ranked, uncut.", **own)
        self._together = Histogram(
            "irpo_batch_requests", "Requests ranked together.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **own
        )
        self._waiting = Gauge("irpo_queue_requests", "Requests that wait to be ranked.", **own)

    def watch(self, waiting: Callable[[], float]) -> None:
        """How many wait is asked when the figures are read."""
        self._waiting.set_function(waiting)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request has ended; status 499 where its client went away."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def ranked(self, documents: int, tokens: int) -> None:
        """A request was ranked."""
        self._documents.inc(documents)
        self._tokens.inc(tokens)

    def batch(self, requests: int) -> None:
        """So many were ranked together."""
        self._together.observe(requests)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        found: bytes = generate_latest(self.registry)
        return found
