"""The engine works with any source and any sink: here with lists."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dbmazz_core.engine.capture import Capture
from dbmazz_core.engine.copying import Copying
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, WindowResult
from dbmazz_core.settings.config import Settings, WindowLimits
from dbmazz_core.table_ref import TableRef
from tests.support.lists import ListSink, ListSource

TABLE = TableRef("public", "t")
SETTINGS = Settings.from_env({"SOURCE_URL": "postgres://nowhere", "TABLES": "public.t", "FLUSH_SIZE": "1"})


def capture(
    source: ListSource,
    sink: ListSink,
    limits: WindowLimits | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> WindowResult:
    """What `Pipeline.capture` does, but for checks and set-up."""
    tables = {table.ref: table for table in source.look().tables}
    copying = Copying.plan(SETTINGS, source, sink, tables, sink.read(), source.confirmed, progress=progress)
    copying.copy()
    return Capture(SETTINGS, source, sink, tables, limits or WindowLimits(), progress=progress).run(copying.checkpoint)


def assert_equal(source: ListSource, sink: ListSink) -> None:
    names, rows = source.state(len(source.transactions))
    assert sink.recorded.tables[TABLE].schema.names == tuple(names)
    assert sink.rows[TABLE] == rows
    assert sink.recorded.checkpoint is not None
    assert source.lsn == sink.recorded.checkpoint.lsn == source.confirmed


@pytest.fixture
def source() -> ListSource:
    return ListSource(TABLE, [[("add", "v")], [("I", (1, "one")), ("I", (2, "two"))]])


def test_rows_are_copied_and_changes_follow(source: ListSource) -> None:
    sink = ListSink()
    assert capture(source, sink).changes == 0
    assert sink.rows[TABLE] == {1: (1, "one"), 2: (2, "two")}
    source.transactions += [[("I", (3, "three")), ("U", (1, "uno"))], [("D", (2, "two")), ("U", (3, "tres"))]]
    result = capture(source, sink)
    assert (result.changes, result.transactions, result.stop_reason) == (4, 2, StopReason.CAUGHT_UP)
    assert_equal(source, sink)
    source.transactions.append([("truncate", None), ("I", (9, "nine"))])
    capture(source, sink)
    assert_equal(source, sink)


def test_columns_that_are_added_are_followed(source: ListSource) -> None:
    sink = ListSink()
    capture(source, sink)
    source.transactions += [[("I", (3, "three")), ("add", "w"), ("I", (4, "four", "new")), ("U", (1, "one", "old"))]]
    source.transactions += [[("add", "x")]]
    result = capture(source, sink)
    assert result.schema_changes == [
        'public.t: column "w" String was added (apply)',
        'public.t: column "x" String was added (apply)',
    ]
    assert_equal(source, sink)


def test_a_window_that_ends_early_or_breaks_is_resumed(source: ListSource) -> None:
    sink = ListSink()
    capture(source, sink)
    source.transactions += [[("I", (n, str(n)))] for n in range(10, 20)]
    assert capture(source, sink, WindowLimits(max_changes=3)).stop_reason is StopReason.MAX_CHANGES
    assert len(sink.rows[TABLE]) == 5

    def fail(report: Progress) -> None:
        raise RuntimeError(report.phase)

    with pytest.raises(RuntimeError, match="stream"):
        capture(source, sink, progress=fail)
    assert sink.recorded.checkpoint is not None
    assert len(sink.rows[TABLE]) == 2 + (sink.recorded.checkpoint.lsn - 20) // 10
    capture(source, sink)
    assert_equal(source, sink)
