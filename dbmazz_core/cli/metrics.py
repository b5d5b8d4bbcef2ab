"""Metrics of `dbmazz follow` over HTTP: Prometheus' text format, and endpoints for health and readiness."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from dbmazz_core.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from dbmazz_core.engine.follow_status import FollowStatus

#: Seconds for a request to come in and be answered.
_TIMEOUT_S = 10.0


@contextlib.contextmanager
def serve_metrics(address: tuple[str, int] | None, status: Callable[[], FollowStatus | None]) -> Iterator[int | None]:
    """Serve metrics while the context is open; yield the port, None without an address.

    Args:
        address: Host and port to listen on; port 0: a free one. None: nothing is served.
        status: Returns the status of the run; None: it has not begun.

    Raises:
        ConfigError: The package `prometheus-client` is missing, or the address cannot be listened on.
    """
    if address is None:
        yield None
        return
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ImportError as error:
        raise ConfigError(
            f"METRICS needs a package that is not installed: {error.name or error}",
            object="METRICS",
            remedy="pip install 'dbmazz[metrics]', or unset METRICS",
        ) from error

    registry = CollectorRegistry()
    registry.register(_Collector(status))

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif path in ("/healthz", "/readyz"):
                now = status()
                is_ready = now is not None and now.phase == "streaming"
                fine = path == "/healthz" or is_ready
                body = {"phase": None if now is None else now.phase.value, "ready": is_ready}
                code = HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(code, "application/json", json.dumps(body).encode() + b"\n")
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there are /metrics, /healthz and /readyz\n")

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, code: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Print nothing: a scrape every few seconds is no news."""

    class Server(ThreadingHTTPServer):
        address_family = family
        daemon_threads = True

    try:
        server = Server(address, Handler)
    except OSError as error:
        raise ConfigError(
            f"METRICS cannot be served at {address[0]}:{address[1]}: {error.strerror or error}",
            object="METRICS",
            remedy="choose another host or port, or end the program that uses this one",
        ) from None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 1.0}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class _Collector:
    """Makes metrics of the last status at each scrape."""

    def __init__(self, status: Callable[[], FollowStatus | None]) -> None:
        self._status = status

    def describe(self) -> list[Metric]:
        """Return nothing: the registry must not scrape to know the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        status = self._status()
        if status is None:
            return
        slot = [status.slot]

        def gauge(name: str, help: str, value: float | None) -> Iterator[Metric]:
            if value is not None:
                family = GaugeMetricFamily(f"dbmazz_{name}", help, labels=["slot"])
                family.add_metric(slot, value)
                yield family

        def counter(name: str, help: str, value: float) -> Iterator[Metric]:
            family = CounterMetricFamily(f"dbmazz_{name}", help, labels=["slot"])
            family.add_metric(slot, value)
            yield family

        yield from gauge("streaming", "1 while the stream is open, else 0.", float(status.phase == "streaming"))
        yield from gauge(
            "lag_seconds", "Seconds since the destination had all that the server had sent.", status.lag_s()
        )
        yield from gauge(
            "latency_seconds", "Seconds from the last applied commit until the destination had it.", status.latency_s
        )
        commit_time = None if status.commit_time is None else status.commit_time.timestamp()
        yield from gauge("last_commit_timestamp_seconds", "Commit time of the last applied transaction.", commit_time)
        yield from gauge("checkpoint_lsn", "The checkpoint of the destination, as bytes.", status.checkpoint)
        if (source := status.source) is not None:
            yield from gauge(
                "slot_lag_bytes", "Bytes of WAL that the slot has not confirmed, at the last look.", source.lag_bytes
            )
            yield from gauge(
                "slot_restart_lag_bytes",
                "Bytes of WAL that a new stream decodes before its first change, at the last look.",
                source.restart_lag_bytes,
            )
        yield from counter("transactions", "Source transactions applied.", status.transactions)
        yield from counter("flushes", "Transactions of the destination.", status.flushes)
        yield from counter("interruptions", "Errors after which the run tried again.", status.interruptions)
        changes = CounterMetricFamily(
            "dbmazz_changes", "Row changes applied.", labels=["slot", "schema", "table", "operation"]
        )
        for ref, counts in sorted(status.tables.items()):
            for operation in ("inserts", "updates", "deletes", "truncates"):
                value = getattr(counts, operation)
                changes.add_metric([*slot, ref.schema, ref.name, operation.removesuffix("s")], value)
        yield changes
        states = GaugeMetricFamily("dbmazz_tables", "Tables by state.", labels=["slot", "state"])
        names = [state.state.value for state in status.states.values()]
        for name in sorted({*names}):
            states.add_metric([*slot, name], names.count(name))
        yield states
