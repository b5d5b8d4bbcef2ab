"""What is committed together, and what becomes of a flush that fails or is broken off while the window reads on."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason
from dbmazz_core.errors import BadValue, DiskFull
from dbmazz_core.settings.config import FlushConfig
from tests.pipeline.test_quarantine import FAR
from tests.support.lab import Lab

#: Of 32 kB, so that sixteen of them are half a megabyte.
PIECES = FlushConfig(max_bytes=1 << 15)


@pytest.fixture
def texts(lab: Lab) -> Lab:
    """A captured table of texts, and nothing to capture."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0, 'first')")
    lab.capture_and_compare("t")
    return lab


def kilobytes(first: int, last: int) -> list[str]:
    """Transactions of one row of a kilobyte each."""
    return [
        f"INSERT INTO t SELECT {n}, string_agg(md5((i * {n})::text), '') FROM generate_series(1, 32) i"
        for n in range(first, last + 1)
    ]


# -- several transactions in one


def test_what_is_too_large_for_memory_is_applied_in_pieces_and_committed_together(texts: Lab) -> None:
    texts.transactions(*kilobytes(1, 400))
    result = texts.configured(flush=PIECES).capture_and_compare("t")
    assert (result.changes, result.flushes, result.transactions) == (400, 1, 400)


def test_not_more_than_sixteen_pieces_are_committed_together(texts: Lab) -> None:
    texts.transactions(*kilobytes(1, 1200))
    seen: list[int] = []
    result = texts.configured(flush=PIECES).capture(progress=lambda at: seen.append(at.rows))
    assert result.flushes == len(seen) == 3
    assert all(400 < later - earlier < 600 for earlier, later in zip([0, *seen], seen[:-1], strict=False))
    texts.assert_equal("t")


def test_pieces_before_a_large_transaction_are_committed_without_it(texts: Lab) -> None:
    large = "INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1001, 20000) i"
    texts.transactions(*kilobytes(1, 200), f"{large}; DELETE FROM t WHERE id > 1200", *kilobytes(201, 210))
    seen: list[int] = []

    def look(_: Progress) -> None:
        with duckdb.connect(str(texts.path)) as reader:
            ((rows,),) = reader.execute("SELECT count(*) FROM public.t").fetchall()
            seen.append(rows)

    result = texts.configured(flush=PIECES).capture(progress=look)
    # Some of what comes behind it may be committed with it, nothing of what came before.
    assert result.flushes == len(seen) in (2, 3)
    assert seen[0] == 201
    assert all(401 <= rows <= 411 for rows in seen[1:])
    texts.assert_equal("t")


def test_a_stop_request_between_pieces_commits_them(texts: Lab) -> None:
    texts.transactions(*kilobytes(1, 1200))
    stop = threading.Event()
    result = texts.configured(flush=PIECES).capture(stop=stop, progress=lambda _: stop.set())
    assert result.stop_reason is StopReason.STOP_REQUESTED
    assert 400 < result.changes < 1200
    assert texts.rows("SELECT count(*) FROM public.t") == [(1 + result.changes,)]
    assert texts.capture_and_compare("t").changes == 1200 - result.changes


def test_a_bad_value_in_a_later_piece_leaves_nothing_of_the_earlier_ones(texts: Lab) -> None:
    texts.execute("ALTER TABLE t ADD d timestamp")
    texts.capture_and_compare("t")
    texts.transactions(*kilobytes(1, 200), f"UPDATE t SET d = {FAR} WHERE id = 100", *kilobytes(201, 210))
    with texts.nothing_changes("public.t"), pytest.raises(BadValue, match=r"public\.t"):
        texts.configured(flush=PIECES).capture()


def test_a_change_of_schema_between_pieces(texts: Lab) -> None:
    texts.transactions(*kilobytes(1, 150), "ALTER TABLE t ADD n int DEFAULT 7", *kilobytes(151, 300))
    texts.transactions("UPDATE t SET n = id WHERE id % 3 = 0", "ALTER TABLE t DROP v", "INSERT INTO t VALUES (5000, 1)")
    texts.configured(flush=PIECES).capture_and_compare("t")


# -- flushes that fail


@contextmanager
def room_for(path: Path, size: int) -> Iterator[None]:
    """Files of this process do not grow further than this one by so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("flush", [FlushConfig(), FlushConfig(size=300)], ids=["at the end", "between"])
@pytest.mark.parametrize("size", [0, 300_000])
def test_a_disk_that_runs_full_is_said_to_be_so(texts: Lab, flush: FlushConfig, size: int) -> None:
    texts.transactions(*kilobytes(1, 4000))
    with (
        room_for(texts.path, size),
        pytest.raises(DiskFull, match=r"no space left for the DuckDB file .*File too large"),
    ):
        texts.configured(flush=flush).capture()
    ((rows,),) = texts.rows("SELECT count(*) FROM public.t")
    assert texts.capture_and_compare("t").changes == 4001 - rows


def test_an_interrupt_while_a_flush_is_under_way(texts: Lab) -> None:
    """As by Ctrl-C in a program of one's own: what is committed stays, what is under way is broken off or done."""
    texts.transactions(*kilobytes(1, 300))

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        texts.configured(flush=FlushConfig(size=20)).capture(progress=interrupt)
    ((rows,),) = texts.rows("SELECT count(*) FROM public.t")
    assert rows in (21, 41)
    assert texts.capture_and_compare("t").changes == 301 - rows
