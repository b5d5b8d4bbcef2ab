"""The thread that applies: how it ends when something else fails."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

from dbmazz_core.connectors.sinks.duckdb_sql.transaction import DuckDBTransaction
from dbmazz_core.engine.apply_events import EventApplier
from dbmazz_core.engine.flusher import Flusher
from dbmazz_core.errors import DestinationError
from dbmazz_core.settings.config import FlushConfig
from tests.support.lab import Lab

TABLES = [f"t{n}" for n in range(12)]


@pytest.fixture
def many(lab: Lab) -> Lab:
    """Tables with rows to come, all in one flush."""
    lab.execute("; ".join(f"CREATE TABLE {name} (id int PRIMARY KEY)" for name in TABLES))
    lab.capture()
    lab.execute("; ".join(f"INSERT INTO {name} VALUES (1)" for name in TABLES))
    return lab.configured(flush=FlushConfig(size=1_000_000))


def test_an_interrupt_between_two_statements_ends_the_flush(many: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next table: nothing of the flush is there, and the next window has all of it."""
    apply, applied = DuckDBTransaction.apply, 0

    def slow(sink: DuckDBTransaction, effect: Any) -> None:
        nonlocal applied
        applied += 1
        if applied == 2:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # the window's
            time.sleep(0.5)  # between two statements: DuckDB has nothing to interrupt
        apply(sink, effect)

    with monkeypatch.context() as patch, many.nothing_changes("public.t0", "public.t1"):
        patch.setattr(DuckDBTransaction, "apply", slow)
        with pytest.raises(KeyboardInterrupt):
            many.capture()
    assert applied == 2
    many.capture_and_compare(*TABLES)


def test_a_rollback_that_fails_does_not_hide_why(many: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    abandon = Flusher.abandon

    def failing(flusher: Flusher, *, interrupt: bool = False) -> None:
        abandon(flusher, interrupt=interrupt)
        raise DestinationError("ROLLBACK failed", object="file", remedy="none")

    def wrong(*_: Any) -> None:
        raise ValueError("the first thing that went wrong")

    threads = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(EventApplier, "apply", wrong)
        patch.setattr(Flusher, "abandon", failing)
        with pytest.raises(ValueError, match="first thing") as info:
            many.capture()
    assert any("ROLLBACK failed" in note for note in info.value.__notes__)
    assert threading.active_count() == threads
    many.capture_and_compare(*TABLES)
