"""Two captures, each with a slot of its own, into one file: they take turns, and a table belongs to one of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dbmazz_core.connectors.sinks.duckdb.reader import open_reader
from dbmazz_core.errors import DestinationConflict, DestinationLocked
from dbmazz_core.model.policies import Mode, TableErrorPolicy
from dbmazz_core.model.table_state import TableStatus
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import SinkConfig, TableConfig
from tests.support.lab import Lab
from tests.support.worker_process import Worker

ISOLATE = ByTable(TableErrorPolicy.ISOLATE)


@pytest.fixture
def first(lab: Lab) -> Lab:
    """Captures `t`."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')")
    lab.execute("CREATE TABLE u (id int PRIMARY KEY, v text); INSERT INTO u VALUES (1, 'one')")
    lab.tables = "public.t"
    lab.capture_and_compare("t")
    return lab


@pytest.fixture
def second(first: Lab) -> Iterator[Lab]:
    """Captures `u` into the same file."""
    lab = first.configured(slot=f"{first.slot}_2", source={"publication": "other_pub"})
    lab.tables = "public.u"
    try:
        yield lab
    finally:
        lab.pipeline.teardown()


@pytest.fixture
def overlapping(second: Lab) -> Lab:
    """Captures `t` too, which belongs to the first one."""
    second.tables = "public.t, public.u"
    return second


def checkpoints(lab: Lab) -> dict[str, int]:
    return dict(lab.rows("SELECT slot, lsn FROM _dbmazz.checkpoints"))


def test_each_has_a_checkpoint_and_leaves_the_other_alone(first: Lab, second: Lab) -> None:
    second.capture_and_compare("u")
    for number in range(2, 5):
        first.execute(f"INSERT INTO t VALUES ({number}, 'x'); INSERT INTO u VALUES ({number}, 'x')")
        before = checkpoints(first)
        first.capture_and_compare("t")
        assert checkpoints(first)[second.slot] == before[second.slot]
        assert first.rows("SELECT max(id) FROM public.u") == [(number - 1,)]
        second.capture_and_compare("u")
    with open_reader(first.path) as reader:
        assert set(reader.lsns) == {first.slot, second.slot}
        assert reader.lsn == min(reader.lsns.values())
    assert {state.table.name for state in first.pipeline.table_states()} == {"t"}
    assert {state.table.name for state in second.pipeline.table_states()} == {"u"}
    for lab in (first, second):
        assert not lab.pipeline.check().errors


def test_windows_at_the_same_time_take_turns(first: Lab, second: Lab) -> None:
    """Each window waits while the other one commits: both processes end well, flush by flush."""
    second.capture()
    for table in ("t", "u"):
        first.transactions(
            *(
                f"INSERT INTO {table} SELECT i, 'x' FROM generate_series({n}, {n + 499}) i"
                for n in range(10, 30_010, 500)
            )
        )
    workers = [
        Worker(lab, TABLES=lab.tables, SOURCE_PUBLICATION_NAME=lab.config.publication) for lab in (first, second)
    ]
    for worker in workers:
        code, said = worker.end()
        assert code == 0, said
    first.assert_equal("t")
    second.assert_equal("u")


def test_a_window_that_waits_too_long_names_the_process_and_loses_nothing(first: Lab, second: Lab) -> None:
    second.capture()
    impatient = second.configured(sink=SinkConfig(url=str(second.path), lock_timeout_s=0))
    first.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(10, 300000) i")
    second.execute("INSERT INTO u VALUES (2, 'two')")
    worker = Worker(first, TABLES=first.tables, SOURCE_PUBLICATION_NAME=first.config.publication)
    refused = None
    while worker.process.poll() is None and refused is None:
        try:
            impatient.capture()
        except DestinationLocked as error:
            refused = error
        second.execute("UPDATE u SET v = v || '.' WHERE id = 2")
    code, said = worker.end()
    assert code == 0, said
    assert refused is not None
    assert str(worker.process.pid) in str(refused)
    first.assert_equal("t")
    second.capture_and_compare("u")


def test_a_table_of_the_other_one_stops_the_capture(first: Lab, overlapping: Lab) -> None:
    with pytest.raises(DestinationConflict, match=f"slot {first.slot} feeds the table public.t") as info:
        overlapping.capture()
    overlapping.assert_found_by_check(info.value)
    assert "SOURCE_SLOT_NAME" in info.value.remedy
    assert not overlapping.database.fetch("SELECT FROM pg_replication_slots WHERE slot_name = %s", overlapping.slot)
    first.execute("INSERT INTO t VALUES (2, 'two')")
    first.capture_and_compare("t")


@pytest.mark.parametrize("mode", [Mode.MIRROR, Mode.SOFT_DELETE])
def test_a_table_of_the_other_one_is_left_out_and_stays_whole(first: Lab, overlapping: Lab, mode: Mode) -> None:
    """`ON_TABLE_ERROR=isolate`: the second capture goes on without it; the first one and its readers do not notice."""
    first = first.kept(mode)
    first.pipeline.snapshot()
    overlapping = overlapping.configured(on_error=ISOLATE, tables=TableConfig(mode=ByTable(Mode.MIRROR)))
    result = overlapping.capture()
    overlapping.assert_equal("u")
    state = result.in_trouble[overlapping.ref("t")]
    assert state.state is TableStatus.PENDING
    assert state.problem is not None
    assert state.problem.error == "DestinationConflict"
    assert f"slot {first.slot} feeds the table public.t" in state.problem.reason

    def whole() -> None:
        first.capture_and_compare("t")
        overlapping.capture()
        overlapping.assert_equal("u")
        first.assert_equal("t")
        with open_reader(first.path) as reader:
            found = reader.states()[first.ref("t")]
            assert (found.state, found.mode) == (TableStatus.STREAMING, mode)
            reader.frame("t")
            assert reader.frame("u").height == 1
        (counted,) = first.pipeline.table_states()
        assert (counted.rows,) == first.database.fetch("SELECT count(*) FROM t")[0]

    whole()
    first.execute("UPDATE t SET v = 'two'; INSERT INTO t VALUES (2, 'new'), (3, 'new'); DELETE FROM t WHERE id = 3")
    first.execute("DELETE FROM t WHERE id = 2")
    whole()
    first.execute("ALTER TABLE t ADD COLUMN n int DEFAULT 7; INSERT INTO t VALUES (4, 'four', 4)")
    whole()
    first.pipeline.snapshot([first.ref("t")])
    assert [state.table.name for state in overlapping.pipeline.table_states()] == ["t", "u"]
    whole()


def test_a_table_of_the_other_one_is_renamed(first: Lab, overlapping: Lab) -> None:
    """By the first capture, which owns it."""
    overlapping = overlapping.configured(on_error=ISOLATE)
    overlapping.capture()
    first.execute("ALTER TABLE t RENAME TO renamed; INSERT INTO renamed VALUES (2, 'two')")
    first.tables = "public.renamed"
    first.capture_and_compare("renamed")
    assert [state.table.name for state in overlapping.pipeline.table_states()] == ["t", "u"]
    overlapping.tables = "public.u, public.renamed"
    result = overlapping.capture()
    assert overlapping.ref("renamed") in result.in_trouble
    first.execute("INSERT INTO renamed VALUES (3, 'three')")
    first.capture_and_compare("renamed")
    assert {state.table.name for state in first.pipeline.table_states()} == {"renamed"}
