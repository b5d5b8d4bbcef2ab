"""A window that has nothing to apply is told so by an ordinary query: it opens no stream, and imports no polars."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from dbmazz_core.connectors.sources.postgres import quiet as quiet_module
from dbmazz_core.connectors.sources.postgres import source as postgres_source
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.engine.result import StopReason, WindowResult
from dbmazz_core.errors import ReplicationInterrupted, SlotAheadOfCheckpoint
from dbmazz_core.settings.config import FlushConfig
from tests.support.lab import Lab

_CAPTURE = """
import json, sys
from dbmazz_core import Pipeline, Settings
result = Pipeline(Settings.from_env()).capture()
slow = {"polars", "numpy", "pyarrow", "pyarrow.compute"}  # the last one takes as long as numpy
print(json.dumps([result.changes, sorted(slow.intersection(sys.modules))]))
"""


@pytest.fixture
def quiet(lab: Lab) -> Lab:
    """A captured table without changes."""
    lab.tables = "public.t"
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'); CREATE TABLE other (id int)"
    )
    lab.capture()
    return lab


def streams(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> tuple[WindowResult, int]:
    """Run a window; return its result, and the number of streams that it opened."""
    opened: list[object] = []
    stream = postgres_source.PostgresSource.stream
    with monkeypatch.context() as patch:
        patch.setattr(
            postgres_source.PostgresSource,
            "stream",
            lambda self, *arguments, **named: opened.append(self) or stream(self, *arguments, **named),
        )
        result = lab.capture()
    lab.assert_equal("t")
    return result, len(opened)


@pytest.mark.parametrize(
    "elsewhere",
    [
        "",
        "INSERT INTO other SELECT generate_series(1, 1000)",
        "CREATE TABLE new (id int)",
        "ANALYZE",
        "CHECKPOINT",
    ],
)
def test_nothing_to_apply_needs_no_stream(quiet: Lab, monkeypatch: pytest.MonkeyPatch, elsewhere: str) -> None:
    before = quiet.pipeline.status().checkpoint
    if elsewhere:
        quiet.execute(elsewhere)
    result, opened = streams(quiet, monkeypatch)
    assert (opened, result.changes, result.flushes, result.stop_reason) == (0, 0, 0, StopReason.CAUGHT_UP)
    assert before is not None
    assert (result.start_lsn, result.end_lsn) == (before.lsn, before.lsn)
    assert result.upper_lsn >= before.lsn
    quiet.execute("UPDATE t SET v = 'b'")
    assert streams(quiet, monkeypatch)[0].changes == 1


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES (2, 'b')",
        "BEGIN; INSERT INTO t VALUES (2, 'b'); SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT",
        "TRUNCATE t",
        "ALTER TABLE t ADD COLUMN n int DEFAULT 7",
        "ALTER TABLE t ALTER COLUMN v TYPE varchar(10)",
        "ALTER TABLE t RENAME COLUMN v TO w",
        "SELECT pg_logical_emit_message(true, 'app', 'a message')",
        "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t REPLICA IDENTITY FULL",
    ],
)
def test_whatever_may_change_the_destination_is_streamed(
    quiet: Lab, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    quiet.execute(statement)
    assert streams(quiet, monkeypatch)[1] >= 1
    assert streams(quiet, monkeypatch)[1] == 0


def test_much_other_wal_moves_the_slot(quiet: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream moves the checkpoint, which a query cannot."""
    lab = quiet.configured(flush=FlushConfig(idle_wal_bytes=1_000_000))
    lab.execute("INSERT INTO other SELECT generate_series(1, 50000)")
    result, opened = streams(lab, monkeypatch)
    assert opened == 1
    assert result.end_lsn > result.start_lsn


def test_a_slot_behind_the_checkpoint_is_moved(quiet: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The acknowledgement of the last window did not arrive."""
    quiet.execute("INSERT INTO t VALUES (2, 'b')")
    with monkeypatch.context() as patch:
        patch.setattr("dbmazz_core.connectors.sources.postgres.stream.PostgresStream.confirm", lambda *_: None)
        quiet.capture()
    checkpoint = quiet.pipeline.status().checkpoint
    assert checkpoint is not None
    assert streams(quiet, monkeypatch)[1] == 1
    confirmed = quiet.pipeline.status().source.confirmed_lsn
    assert confirmed is not None
    assert confirmed >= checkpoint.lsn


def test_a_slot_past_the_checkpoint_is_an_error(quiet: Lab) -> None:
    quiet.execute("INSERT INTO t VALUES (2, 'b')")
    quiet.execute(f"SELECT pg_replication_slot_advance('{quiet.slot}', pg_current_wal_flush_lsn())")
    with pytest.raises(SlotAheadOfCheckpoint):
        quiet.capture()


def test_a_slot_that_another_consumer_moves_meanwhile_is_an_error(quiet: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the slot and the question whether it holds anything."""
    quiet.execute("INSERT INTO t VALUES (2, 'b')")
    slot_is_quiet = quiet_module.slot_is_quiet

    def moved(*arguments: Any) -> bool:
        quiet.execute(f"SELECT pg_replication_slot_advance('{quiet.slot}', pg_current_wal_flush_lsn())")
        return slot_is_quiet(*arguments)

    monkeypatch.setattr(quiet_module, "slot_is_quiet", moved)
    with pytest.raises(SlotAheadOfCheckpoint):
        quiet.capture()


def test_a_quiet_window_ends_a_capture_that_cleans_up(quiet: Lab) -> None:
    lab = quiet.configured(source={"cleanup_on_stop": True})
    lab.capture()
    assert not lab.pipeline.status().source.slot_exists


def test_a_quiet_window_imports_neither_polars_nor_numpy(quiet: Lab) -> None:
    def window() -> str:
        settings = quiet.pipeline.settings
        environment = os.environ | {
            "SOURCE_URL": settings.source.url.reveal(),
            "SOURCE_SLOT_NAME": settings.source.slot,
            "SOURCE_PUBLICATION_NAME": settings.source.publication,
            "TABLES": "public.t",
            "SINK_URL": settings.sink.url,
        }
        command = [sys.executable, "-c", _CAPTURE]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert window() == "[0, []]\n"
    quiet.execute("INSERT INTO t VALUES (2, 'b')")
    assert window() == '[1, ["numpy", "polars", "pyarrow"]]\n'


def test_a_connection_that_breaks_meanwhile_ends_the_window(quiet: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock that keeps other windows of the slot away ends with the connection: the window must not go on."""
    slot_is_quiet = quiet_module.slot_is_quiet

    def ended(connection: Connection, *arguments: Any) -> bool:
        quiet.execute(f"SELECT pg_terminate_backend({connection.info.backend_pid})")
        return slot_is_quiet(connection, *arguments)

    monkeypatch.setattr(quiet_module, "slot_is_quiet", ended)
    with pytest.raises(ReplicationInterrupted):
        quiet.capture()
