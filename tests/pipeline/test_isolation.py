"""`ON_TABLE_ERROR=isolate`: a table in trouble keeps its rows of the last commit, and the others go on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pytest

from dbmazz_core.engine.result import WindowResult
from dbmazz_core.errors import BadValue, SchemaChanged, TableNotFound
from dbmazz_core.model.policies import TableErrorPolicy
from dbmazz_core.model.table_state import TableState, TableStatus
from dbmazz_core.settings.by_table import ByTable, parse_by_table, parse_schema_policy
from dbmazz_core.settings.config import FlushConfig, TableConfig
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.table_ref import TableRef
from tests.support.lab import Lab
from tests.support.worker_process import Worker

ISOLATE = ByTable(TableErrorPolicy.ISOLATE)


@pytest.fixture
def isolating(lab: Lab) -> Lab:
    """Tables `good` and `odd` with a row each, not captured yet."""
    lab.execute(
        "CREATE TABLE good (id int PRIMARY KEY, v text); INSERT INTO good VALUES (1, 'one');"
        "CREATE TABLE odd (id int PRIMARY KEY, n numeric(9,2), v text); INSERT INTO odd VALUES (1, 1.5, 'one')"
    )
    return lab.configured(on_error=ISOLATE)


def state(result: WindowResult, name: str = "odd") -> TableState:
    return result.states[TableRef("public", name)]


def held_rows(lab: Lab, name: str = "odd") -> list[tuple[Any, ...]]:
    return sorted(lab.rows(f"SELECT COLUMNS(*)::VARCHAR FROM public.{name}"), key=repr)


@dataclass(frozen=True)
class Cause:
    """Trouble of a captured table.

    Attributes:
        arrange: Makes the trouble.
        error: The class of the error.
        repair: Ends it; the next window copies the table by itself. None: on request only.
        settings: Groups of settings.
    """

    arrange: Callable[[Lab], None]
    error: str
    repair: Callable[[Lab], None] | None = None
    settings: dict[str, Any] | None = None


def at_source(*statements: str) -> Callable[[Lab], None]:
    return lambda lab: lab.transactions(*statements)


def in_destination(statement: str, *statements: str) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        with duckdb.connect(str(lab.path)) as connection:
            connection.execute(statement)
        lab.transactions(*statements)

    return change


NAN = "INSERT INTO odd VALUES (2, 'NaN', 'bad')"
ROLE_IS_LEFT = {"source": {"replica_identity": ReplicaIdentityPolicy.LEAVE}}

CAUSES = {
    "bad value": Cause(at_source(NAN), "BadValue"),
    "bad value before good ones": Cause(at_source(NAN, "UPDATE odd SET v = 'x' WHERE id = 1"), "BadValue"),
    "column dropped under stop": Cause(
        at_source("ALTER TABLE odd DROP COLUMN v", "INSERT INTO odd VALUES (2, 2)"),
        "SchemaChanged",
        settings={"tables": TableConfig(schema_changes=parse_schema_policy("SCHEMA_CHANGES", "drop_column=stop"))},
    ),
    "column dropped under stop without rows": Cause(
        at_source("ALTER TABLE odd DROP COLUMN v"),
        "SchemaChanged",
        settings={"tables": TableConfig(schema_changes=parse_schema_policy("SCHEMA_CHANGES", "stop"))},
    ),
    "renamed under stop": Cause(
        at_source("ALTER TABLE odd RENAME TO other"),
        "SchemaChanged",
        at_source("ALTER TABLE other RENAME TO odd"),
        settings={"tables": TableConfig(schema_changes=parse_schema_policy("SCHEMA_CHANGES", "rename_table=stop"))},
    ),
    "row deleted by hand": Cause(
        in_destination("DELETE FROM public.odd", "UPDATE odd SET v = 'two'"), "DestinationConflict"
    ),
    "column added by hand": Cause(in_destination("ALTER TABLE public.odd ADD COLUMN x INT"), "DestinationConflict"),
    "table dropped by hand": Cause(in_destination("DROP TABLE public.odd"), "DestinationConflict"),
    "view in its place": Cause(
        in_destination("DROP TABLE public.odd; CREATE VIEW public.odd AS SELECT 1 AS id, 2 AS n, '' AS v"),
        "DestinationConflict",
        in_destination("DROP VIEW public.odd; CREATE TABLE public.odd (id INT, n DECIMAL(9, 2), v VARCHAR)"),
    ),
    "no identity": Cause(
        at_source("ALTER TABLE odd REPLICA IDENTITY NOTHING"),
        "ReplicaIdentityInsufficient",
        at_source("ALTER TABLE odd REPLICA IDENTITY DEFAULT"),
        settings=ROLE_IS_LEFT,
    ),
    "name that DuckDB does not distinguish": Cause(
        at_source('ALTER TABLE odd ADD COLUMN "V" text'),
        "DestinationConflict",
        at_source('ALTER TABLE odd DROP COLUMN "V"'),
    ),
    "row filter without the identity": Cause(
        at_source(
            "ALTER PUBLICATION dbmazz_pub DROP TABLE odd", "ALTER PUBLICATION dbmazz_pub ADD TABLE odd WHERE (v <> '')"
        ),
        "ReplicaIdentityInsufficient",
        at_source("ALTER PUBLICATION dbmazz_pub DROP TABLE odd", "ALTER PUBLICATION dbmazz_pub ADD TABLE odd"),
        settings=ROLE_IS_LEFT,
    ),
}


#: What PostgreSQL 14 cannot have.
SINCE_15 = ("row filter without the identity",)


@pytest.mark.parametrize(
    "cause",
    [
        pytest.param(cause, id=name, marks=[pytest.mark.since(15)] if name in SINCE_15 else [])
        for name, cause in CAUSES.items()
    ],
)
def test_the_others_go_on_and_the_table_keeps_its_rows(isolating: Lab, cause: Cause) -> None:
    lab = isolating.configured(**(cause.settings or {}))
    lab.capture_and_compare("good", "odd")
    before = lab.checkpoint
    lab.execute("INSERT INTO good VALUES (2, 'two')")
    cause.arrange(lab)
    lab.execute("INSERT INTO good VALUES (3, 'three')")
    result = lab.capture_and_compare("good")
    failed = state(result)
    assert (failed.state, failed.problem and failed.problem.error) == (TableStatus.FAILED, cause.error)
    assert failed.lsn is not None
    assert before <= failed.lsn < lab.checkpoint
    assert failed.since is not None
    assert failed.problem is not None
    assert failed.problem.remedy
    assert lab.checkpoint == lab.confirmed == result.end_lsn

    # It stays so, quietly, while nothing changes.
    lab.execute("INSERT INTO good VALUES (4, 'four')")
    assert state(lab.capture_and_compare("good")) == failed

    if cause.repair is not None:
        cause.repair(lab)
        result = lab.capture_and_compare("good", "odd")
    else:
        lab.execute("DELETE FROM odd WHERE n = 'NaN'")
        lab.pipeline.snapshot([lab.ref("odd")])
        lab.execute("INSERT INTO odd (id, n) VALUES (9, 9)")
        result = lab.capture_and_compare("good", "odd")
    assert state(result).state is TableStatus.STREAMING
    assert not result.in_trouble


@pytest.mark.parametrize("first", ["bad value", "column added by hand", "no identity"])
@pytest.mark.parametrize("second", ["bad value", "row deleted by hand", "column dropped under stop"])
def test_two_tables_fail_for_two_reasons(isolating: Lab, first: str, second: str) -> None:
    settings = (CAUSES[first].settings or {}) | (CAUSES[second].settings or {})
    lab = isolating.configured(**settings)
    lab.execute("CREATE TABLE odd2 (id int PRIMARY KEY, n numeric(9,2), v text); INSERT INTO odd2 VALUES (1, 1, 'one')")
    lab.capture_and_compare("good", "odd", "odd2")
    CAUSES[first].arrange(lab)
    arrange_on_the_other(lab, CAUSES[second])
    lab.execute("INSERT INTO good VALUES (2, 'two')")
    result = lab.capture_and_compare("good")
    assert {ref.name for ref in result.in_trouble} == {"odd", "odd2"}


def arrange_on_the_other(lab: Lab, cause: Cause) -> None:
    """The same trouble for `odd2`: under its name while the other one has another."""
    lab.transactions("ALTER TABLE odd RENAME TO aside", "ALTER TABLE odd2 RENAME TO odd")
    with duckdb.connect(str(lab.path)) as connection:
        connection.execute("ALTER TABLE public.odd RENAME TO aside; ALTER TABLE public.odd2 RENAME TO odd")
    cause.arrange(lab)
    with duckdb.connect(str(lab.path)) as connection:
        connection.execute("ALTER TABLE public.odd RENAME TO odd2; ALTER TABLE public.aside RENAME TO odd")
    lab.transactions("ALTER TABLE odd RENAME TO odd2", "ALTER TABLE aside RENAME TO odd")


def test_a_table_fails_in_the_middle_of_a_large_transaction_that_also_touches_good_ones(isolating: Lab) -> None:
    lab = isolating.configured(flush=FlushConfig(max_bytes=20_000))
    lab.capture_and_compare("good", "odd")
    rows = held_rows(lab)
    lab.execute(
        "INSERT INTO good SELECT i, repeat('g', 100) FROM generate_series(10, 800) i;"
        "INSERT INTO odd SELECT i, i, repeat('o', 100) FROM generate_series(10, 800) i;"
        "UPDATE odd SET n = 'NaN' WHERE id = 700;"
        "INSERT INTO good SELECT i, repeat('g', 100) FROM generate_series(1000, 1800) i;"
    )
    result = lab.capture_and_compare("good")
    assert state(result).state is TableStatus.FAILED
    assert held_rows(lab) == rows
    assert result.tables[lab.ref("good")].inserts == 1592
    assert result.changes == 1592


def test_each_commit_moves_on_while_tables_fail_one_after_the_other(isolating: Lab) -> None:
    lab = isolating.configured(flush=FlushConfig(size=1))
    lab.execute("CREATE TABLE odd2 (id int PRIMARY KEY, n numeric(9,2))")
    lab.capture_and_compare("good", "odd", "odd2")
    lab.transactions(
        "INSERT INTO odd VALUES (2, 2, 'two')",
        "INSERT INTO good VALUES (2, 'two')",
        NAN.replace("(2,", "(3,"),
        "INSERT INTO odd2 VALUES (1, 1)",
        "INSERT INTO odd2 VALUES (2, 'NaN')",
        "INSERT INTO good VALUES (3, 'three')",
    )
    result = lab.capture_and_compare("good")
    assert {ref.name for ref in result.in_trouble} == {"odd", "odd2"}
    assert held_rows(lab) == [("1", "1.50", "one"), ("2", "2.00", "two")]
    assert held_rows(lab, "odd2") == [("1", "1.00")]


def test_stop_stops_everything_for_the_tables_that_say_so(isolating: Lab) -> None:
    isolating.capture_and_compare("good", "odd")
    policy = parse_by_table("ON_TABLE_ERROR", "isolate, public.odd=stop", TableErrorPolicy)
    isolating.transactions("INSERT INTO good VALUES (2, 'two')", NAN)
    lab = isolating.configured(on_error=policy)
    with lab.nothing_changes("public.good", "public.odd"), pytest.raises(BadValue):
        lab.capture()


def test_a_failed_table_is_renamed_and_repaired(isolating: Lab) -> None:
    lab = isolating
    lab.capture_and_compare("good", "odd")
    lab.execute(NAN)
    assert lab.capture().in_trouble
    lab.transactions("ALTER TABLE odd RENAME TO renamed", "INSERT INTO good VALUES (5, 'five')")
    result = lab.capture_and_compare("good")
    assert state(result, "renamed").state is TableStatus.FAILED
    lab.execute("DELETE FROM renamed WHERE n = 'NaN'")
    lab.pipeline.snapshot([lab.ref("renamed")])
    lab.capture_and_compare("good", "renamed")
    assert not lab.rows("FROM duckdb_tables() WHERE table_name = 'odd'")


def test_a_table_that_must_not_be_renamed_is_not_copied_under_its_new_name(isolating: Lab) -> None:
    policy = TableConfig(schema_changes=parse_schema_policy("SCHEMA_CHANGES", "rename_table=stop"))
    lab = isolating.configured(tables=policy)
    lab.capture_and_compare("good", "odd")
    lab.execute("ALTER TABLE odd RENAME TO renamed")
    assert state(lab.capture_and_compare("good")).state is TableStatus.FAILED
    with pytest.raises(SchemaChanged, match=r"public\.odd was renamed to public\.renamed"):
        lab.pipeline.snapshot([lab.ref("renamed")])
    lab.execute("ALTER TABLE renamed RENAME TO odd")
    lab.capture_and_compare("good", "odd")


def test_it_comes_back_when_its_definition_or_its_settings_change(isolating: Lab) -> None:
    lab = isolating
    lab.capture_and_compare("good", "odd")
    lab.execute(NAN)
    assert lab.capture().in_trouble
    lab.execute("ALTER TABLE odd ALTER COLUMN n TYPE text")
    result = lab.capture_and_compare("good", "odd")
    assert state(result).state is TableStatus.STREAMING


def test_a_named_table_that_is_dropped_fails_and_one_that_never_was_is_an_error(isolating: Lab) -> None:
    lab = replace(isolating, tables="public.good, public.odd")
    lab.capture_and_compare("good", "odd")
    lab.transactions("DROP TABLE odd", "INSERT INTO good VALUES (2, 'two')")
    result = lab.capture_and_compare("good")
    assert state(result).problem
    assert (state(result).state, state(result).problem.error) == (TableStatus.FAILED, "TableNotFound")  # type: ignore[union-attr]
    lab.execute("CREATE TABLE odd (id int PRIMARY KEY); INSERT INTO odd VALUES (7)")
    lab.capture_and_compare("good", "odd")
    with pytest.raises(TableNotFound):
        replace(lab, tables="public.good, public.odd, public.never").capture()


def test_a_table_that_cannot_be_captured_at_first_is_pending(isolating: Lab) -> None:
    lab = isolating
    lab.execute('CREATE TABLE named (id int PRIMARY KEY, "V" int, v int)')
    lab.execute(NAN)
    result = lab.capture_and_compare("good")
    assert {ref.name: s.state for ref, s in result.in_trouble.items()} == {
        "named": TableStatus.PENDING,
        "odd": TableStatus.PENDING,
    }
    assert not lab.rows("FROM duckdb_tables() WHERE table_name IN ('named', 'odd')")
    lab.transactions("ALTER TABLE named DROP COLUMN v", "ALTER TABLE odd ALTER COLUMN n TYPE numeric(10, 2)")
    lab.execute("DELETE FROM odd WHERE n = 'NaN'")
    result = lab.capture_and_compare("good", "named", "odd")
    assert not result.in_trouble


def test_no_table_at_all_can_be_captured(isolating: Lab) -> None:
    lab = replace(isolating, tables="public.odd")
    lab.execute(NAN)
    for _ in range(2):
        with pytest.raises(BadValue):
            lab.capture()
    lab.execute("DELETE FROM odd WHERE n = 'NaN'")
    lab.capture_and_compare("odd")


def test_twenty_of_two_hundred_tables_are_unusable(isolating: Lab) -> None:
    lab = isolating
    names = [f"t{number:03}" for number in range(200)]
    odd = names[::10]
    with lab.database.connect() as connection:
        for name in names:
            connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, n numeric(9,2))".encode())
            connection.execute(f"INSERT INTO {name} VALUES (1, {(name in odd and 'NULL') or '1'})".encode())
    lab.capture_and_compare("good", *names)
    with lab.database.connect() as connection:
        # A good table changes its shape in the flush that is applied several times.
        connection.execute("ALTER TABLE t001 ADD COLUMN x int; INSERT INTO t001 VALUES (3, 1, 5)")
        for name in names:
            connection.execute(
                f"INSERT INTO {name} VALUES (2, {(name in odd and chr(39) + 'NaN' + chr(39)) or '1'})".encode()
            )
    result = lab.capture_and_compare("good", *(name for name in names if name not in odd))
    assert sorted(ref.name for ref in result.in_trouble) == odd
    assert all(held_rows(lab, name) == [("1", None)] for name in odd)


def test_a_table_that_leaves_the_settings_is_removed(isolating: Lab) -> None:
    lab = isolating
    lab.capture_and_compare("good", "odd")
    rows = held_rows(lab)
    lab.execute("INSERT INTO good VALUES (2, 'two'); INSERT INTO odd VALUES (2, 2, 'two')")
    result = replace(lab, tables="public.good").capture_and_compare("good")
    assert state(result).state is TableStatus.REMOVED
    assert not result.in_trouble
    assert held_rows(lab) == rows
    # It has missed a change, so it is copied again.
    assert lab.capture_and_compare("good", "odd").tables[lab.ref("odd")].snapshot_rows == 2


@pytest.mark.parametrize(
    ("meanwhile", "copied"),
    [
        ("INSERT INTO good VALUES (3, 'three')", False),
        ("UPDATE odd SET v = 'changed'", True),
        ("TRUNCATE odd", True),
        ("INSERT INTO odd VALUES (5, 5, 'five'); DELETE FROM odd WHERE id = 5", True),
        ("ALTER TABLE odd ADD COLUMN w int DEFAULT 5", False),
        ("ALTER TABLE odd ALTER COLUMN n TYPE numeric(12, 4)", True),
        ("DROP TABLE odd; CREATE TABLE odd (id int PRIMARY KEY, n numeric(9,2), v text)", True),
        ("ALTER PUBLICATION dbmazz_pub DROP TABLE odd; UPDATE odd SET v = 'unseen'", True),
        ("ALTER TABLE odd RENAME TO aside; UPDATE aside SET v = 'aside'; ALTER TABLE aside RENAME TO odd", True),
    ],
)
def test_a_table_that_comes_back_is_copied_only_if_it_missed_something(
    isolating: Lab, meanwhile: str, copied: bool
) -> None:
    lab = isolating
    lab.capture_and_compare("good", "odd")
    without = replace(lab, tables="public.good")
    without.capture()
    lab.transactions(*meanwhile.split("; "))
    for _ in range(2):
        without.capture_and_compare("good")
    lab.execute("INSERT INTO good VALUES (4, 'four')")
    result = lab.capture_and_compare("good", "odd")
    assert (result.tables[lab.ref("odd")].snapshot_rows is not None) == copied
    lab.execute("INSERT INTO odd (id, n) VALUES (9, 9)")
    lab.capture_and_compare("good", "odd")


def test_a_removed_table_of_a_new_feed_is_copied(isolating: Lab) -> None:
    lab = isolating
    lab.capture_and_compare("good", "odd")
    without = replace(lab, tables="public.good")
    without.capture()
    lab.execute("UPDATE odd SET v = 'missed'")
    without.pipeline.snapshot()
    without.capture_and_compare("good")
    assert lab.capture_and_compare("good", "odd").tables[lab.ref("odd")].snapshot_rows == 1


def test_paused_tables_keep_their_rows_until_they_are_resumed(isolating: Lab) -> None:
    lab, odd = isolating, isolating.ref("odd")
    lab.capture_and_compare("good", "odd")
    rows = held_rows(lab)
    assert lab.pipeline.pause([odd])[odd].lsn == lab.checkpoint
    lab.execute("INSERT INTO odd VALUES (2, 2, 'two'); INSERT INTO good VALUES (2, 'two')")
    result = lab.capture_and_compare("good")
    assert state(result).state is TableStatus.PAUSED
    assert not result.in_trouble
    assert held_rows(lab) == rows
    assert lab.pipeline.resume([odd])[odd].state is TableStatus.COPYING
    assert state(lab.capture_and_compare("good", "odd")).state is TableStatus.STREAMING


def test_a_paused_table_that_fails_or_was_never_copied(isolating: Lab) -> None:
    lab, odd = isolating, isolating.ref("odd")
    lab.execute(NAN)
    assert state(lab.capture()).state is TableStatus.PENDING
    lab.pipeline.pause([odd])
    lab.execute("ALTER TABLE odd ALTER COLUMN n TYPE text")
    assert state(lab.capture_and_compare("good")).state is TableStatus.PAUSED
    assert lab.pipeline.resume([odd])[odd].state is TableStatus.PENDING
    lab.capture_and_compare("good", "odd")
    with pytest.raises(TableNotFound, match=r"public.odd2.*did you mean public.odd or"):
        lab.pipeline.pause([odd, lab.ref("odd2")])
    assert lab.pipeline.table_states()[1].state is TableStatus.STREAMING


def test_status_tells_the_last_change_of_each_table(isolating: Lab) -> None:
    lab = isolating
    lab.capture()
    lab.execute("INSERT INTO good VALUES (2, 'two')")
    lab.capture()
    changed = lab.checkpoint
    lab.execute("INSERT INTO odd VALUES (2, 2, 'two')")
    lab.capture()
    states = {entry.table.name: entry for entry in lab.pipeline.table_states()}
    assert states["good"].last_change_lsn == changed
    assert states["odd"].last_change_lsn == lab.checkpoint


@pytest.mark.parametrize("moment", ["mark:1", "mark:2", "stream:1"])
@pytest.mark.parametrize("pieces", [False, True], ids=["one flush", "pieces"])
def test_killed_between_marking_and_committing(isolating: Lab, moment: str, pieces: bool) -> None:
    lab = isolating
    lab.execute("CREATE TABLE odd2 (id int PRIMARY KEY, n numeric(9,2))")
    lab.capture_and_compare("good", "odd", "odd2")
    rows = held_rows(lab)
    lab.execute(
        "INSERT INTO good SELECT i, repeat('g', 6000) FROM generate_series(10, 400) i;"
        "INSERT INTO odd VALUES (2, 'NaN', 'bad'); INSERT INTO odd2 VALUES (1, 'NaN');"
        "INSERT INTO good SELECT i, repeat('g', 6000) FROM generate_series(1000, 1400) i;"
    )
    size = "1MB" if pieces else "32MB"
    code, said = Worker(lab, DBMAZZ_TEST_DIE_AT=moment, FLUSH_MAX_BYTES=size, ON_TABLE_ERROR="isolate").end()
    assert code == -signal.SIGKILL, said
    assert lab.confirmed <= lab.checkpoint
    result = lab.configured(flush=FlushConfig(max_bytes=1 << (20 if pieces else 25))).capture_and_compare("good")
    assert {ref.name for ref in result.in_trouble} == {"odd", "odd2"}
    assert held_rows(lab) == rows
