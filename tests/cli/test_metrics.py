"""`dbmazz follow --metrics`: what a scraper and an orchestrator see over HTTP."""

from __future__ import annotations

import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dbmazz_core.cli.metrics import serve_metrics
from dbmazz_core.engine.follow_status import FollowPhase, FollowStatus
from dbmazz_core.errors import ConfigError
from tests.cli.command import Dbmazz, wait_until
from tests.cli.test_follow import following
from tests.support.postgres_fixtures import SourceDatabase


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels, but for the slot."""
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "slot")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_of_a_running_process(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    with following(dbmazz, "--metrics", "127.0.0.1:0") as running:
        running.wait("metrics at http://127.0.0.1:")
        match = re.search(r"metrics at http://127.0.0.1:(\d+)/metrics", "".join(running.stderr))
        assert match is not None
        port = int(match[1])
        assert get(port, "/healthz")[0] == 200
        wait_until(lambda: get(port, "/readyz")[0] == 200)
        shop.execute("UPDATE items SET what = what || 1 WHERE order_id < 4; DELETE FROM orders WHERE id = 50")
        shop.execute("INSERT INTO orders (id) VALUES (1000)")
        one = ("dbmazz_changes_total", "delete", "public", "orders")
        wait_until(lambda: samples(get(port, "/metrics")[1])[one] == 1)
        found = samples(get(port, "/metrics")[1])
        ((updates,),) = shop.fetch("SELECT count(*) FROM items WHERE order_id < 4")
        assert found["dbmazz_changes_total", "update", "public", "items"] == updates
        assert found["dbmazz_streaming",] == 1
        assert found["dbmazz_tables", "streaming"] == 2
        assert found["dbmazz_lag_seconds",] < 30
        assert found["dbmazz_slot_restart_lag_bytes",] >= 0
        assert found["dbmazz_interruptions_total",] == 0
        assert get(port, "/other")[0] == 404
        shop.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'dbmazz'")
        wait_until(lambda: samples(get(port, "/metrics")[1])["dbmazz_interruptions_total",] == 1)
        wait_until(lambda: get(port, "/readyz")[0] == 200)
        assert running.end().code == 0


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (lambda: None, 503),
        (lambda: FollowStatus("s"), 503),
        (lambda: FollowStatus("s", FollowPhase.WAITING), 503),
        (lambda: FollowStatus("s", FollowPhase.STREAMING), 200),
    ],
)
def test_readiness_by_phase(status: Callable[[], FollowStatus | None], code: int) -> None:
    with serve_metrics(("127.0.0.1", 0), status) as port:
        assert port is not None
        assert (get(port, "/healthz")[0], get(port, "/readyz")[0], get(port, "/metrics")[0]) == (200, code, 200)


def test_ipv6() -> None:
    with serve_metrics(("::1", 0), lambda: None) as port:
        assert port is not None
        assert get(port, "/healthz", "[::1]")[0] == 200


def test_address_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
        with pytest.raises(ConfigError, match="Address already in use"), serve_metrics(address, lambda: None):
            pass


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError) as raised, serve_metrics(("127.0.0.1", 0), lambda: None):
        pass
    assert raised.value.remedy == "pip install 'dbmazz[metrics]', or unset METRICS"
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("text", ["9187", ":9187", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999"])
def test_malformed_address(dbmazz: Dbmazz, text: str) -> None:
    assert "is not an address to listen on" in dbmazz.run("follow", "--metrics", text, code=2).stderr
