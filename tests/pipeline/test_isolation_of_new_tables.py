"""New tables never hold the others up: locks, old transactions and missing privileges leave them pending."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from dbmazz_core.engine.result import WindowResult
from dbmazz_core.model.policies import TableErrorPolicy
from dbmazz_core.model.table_state import TableStatus
from dbmazz_core.settings.by_table import ByTable
from tests.support.lab import Lab

#: Longest time, in seconds, that a new table may hold up a window.
HELD_UP_S = 25


@pytest.fixture
def captured(lab: Lab) -> Lab:
    """`good` is captured, and `new` is there, with a change of `good` behind it."""
    lab.execute("CREATE TABLE good (id int PRIMARY KEY, v text); INSERT INTO good VALUES (1, 'one')")
    lab = lab.configured(on_error=ByTable(TableErrorPolicy.ISOLATE))
    lab.capture_and_compare("good")
    return lab


@contextmanager
def transaction(lab: Lab, *statements: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(lab.database.url, application_name="nightly report") as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield connection
        connection.rollback()


def assert_pending(result: WindowResult, error: str, *words: str) -> None:
    (found,) = result.in_trouble.values()
    assert found.problem is not None
    assert (found.table.name, found.state, found.problem.error) == ("new", TableStatus.PENDING, error)
    told = f"{found.problem.reason} {found.problem.remedy}"
    assert all(word in told for word in words), told


LOCKS = {
    "read lock before ALTER TABLE": (
        "CREATE TABLE new (id int); INSERT INTO new VALUES (7)",
        "SELECT count(*) FROM new",
        "TableLocked",
    ),
    "lock against ALTER PUBLICATION": (
        "CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (7)",
        "LOCK TABLE new IN SHARE MODE",
        "TableLocked",
    ),
    "lock against readers": (
        "CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (7)",
        "LOCK TABLE new IN ACCESS EXCLUSIVE MODE",
        "TableLocked",
    ),
    "old transaction before the slot": (
        "CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (7)",
        "INSERT INTO good VALUES (77, 'not committed')",
        "SlotCreationBlocked",
    ),
}


@pytest.mark.parametrize("case", LOCKS.values(), ids=LOCKS)
def test_a_transaction_in_the_way_of_a_new_table(captured: Lab, case: tuple[str, str, str]) -> None:
    create, hold, error = case
    captured.execute(create)
    captured.execute("INSERT INTO good VALUES (2, 'two')")
    with transaction(captured, hold):
        started = time.monotonic()
        result = captured.capture_and_compare("good")
        assert time.monotonic() - started < HELD_UP_S
        assert_pending(result, error, "nightly report", "pg_terminate_backend")
        assert result.tables[captured.ref("good")].inserts == 1
        assert captured.checkpoint == captured.confirmed
    assert not captured.capture_and_compare("good", "new").in_trouble


def test_changes_are_committed_before_a_new_table_is_copied(captured: Lab) -> None:
    captured.execute("CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new SELECT generate_series(1, 100)")
    captured.execute("INSERT INTO good VALUES (2, 'two')")
    phases: list[str] = []
    captured.capture(progress=lambda progress: phases.append(progress.phase))
    assert phases.index("stream") < phases.index("snapshot")
    captured.assert_equal("good", "new")


def test_one_locked_table_among_several_new_ones(captured: Lab) -> None:
    names = ["other1", "new", "other2"]
    captured.execute(
        "".join(f"CREATE TABLE {name} (id int PRIMARY KEY); INSERT INTO {name} VALUES (1);" for name in names)
    )
    with transaction(captured, "LOCK TABLE new IN SHARE MODE"):
        assert_pending(captured.capture_and_compare("good", "other1", "other2"), "TableLocked", "public.new")
    captured.capture_and_compare("good", *names)


def test_first_capture_with_a_locked_table(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (1)"
    )
    lab = lab.configured(on_error=ByTable(TableErrorPolicy.ISOLATE))
    with transaction(lab, "LOCK TABLE new IN SHARE MODE"):
        assert_pending(lab.capture_and_compare("good"), "TableLocked", "public.new")
    lab.capture_and_compare("good", "new")


def test_a_table_of_somebody_else(captured: Lab) -> None:
    role = f"reader_{captured.database.name}"
    captured.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'; ALTER TABLE good OWNER TO {role};")
    captured.execute(f"ALTER PUBLICATION dbmazz_pub OWNER TO {role}; GRANT USAGE ON SCHEMA public TO {role}")
    captured.execute(
        "CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (7), (8); INSERT INTO good VALUES (2, 'two')"
    )
    parameters = psycopg.conninfo.conninfo_to_dict(captured.database.url) | {"user": role, "password": "x"}
    reader = captured.configured(url=psycopg.conninfo.make_conninfo(**{k: str(v) for k, v in parameters.items()}))
    assert_pending(
        reader.capture_and_compare("good"), "MissingPrivilege", f'GRANT SELECT ON "public"."new" TO "{role}"'
    )
    captured.execute(f"GRANT SELECT ON new TO {role}")
    assert_pending(reader.capture_and_compare("good"), "PublicationLacksTable", 'ADD TABLE "public"."new"')
    captured.execute(f"ALTER TABLE new OWNER TO {role}")
    assert not reader.capture_and_compare("good", "new").in_trouble
    captured.execute(f"ALTER TABLE new OWNER TO CURRENT_USER; REVOKE SELECT ON new FROM {role}")
    captured.execute("INSERT INTO new VALUES (9); INSERT INTO good VALUES (3, 'three')")
    failed = reader.capture_and_compare("good").states[captured.ref("new")]
    assert failed.state is TableStatus.FAILED
    captured.execute(f"GRANT SELECT ON new TO {role}")
    assert not reader.capture_and_compare("good", "new").in_trouble


def test_a_captured_table_that_left_the_publication_is_added_again_and_copied(captured: Lab) -> None:
    captured.execute("CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (7)")
    captured.capture_and_compare("good", "new")
    captured.transactions(
        "ALTER PUBLICATION dbmazz_pub DROP TABLE new",
        "INSERT INTO new VALUES (8)",
        "INSERT INTO good VALUES (2, 'two')",
    )
    result = captured.capture_and_compare("good", "new")
    assert "was not in the publication" in result.copy_anew[captured.ref("new")]


def test_a_table_is_dropped_and_made_again_while_another_is_copied(captured: Lab) -> None:
    captured.execute("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE z (id int PRIMARY KEY, v text)")
    captured.execute(
        "INSERT INTO a SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 20000) i; "
        "INSERT INTO z VALUES (1, 'old')"
    )
    statements = ["DROP TABLE z; CREATE TABLE z (id int PRIMARY KEY, v text); INSERT INTO z VALUES (2, 'new')"]

    def meddle(progress: object) -> None:
        if getattr(progress, "table", None) == captured.ref("a") and statements:
            captured.execute(statements.pop())

    captured.capture(progress=meddle)
    captured.execute("UPDATE z SET v = 'later'")
    captured.capture_and_compare("good", "a", "z")
    assert not statements


def test_a_named_table_that_is_locked_does_not_stop_the_others(captured: Lab) -> None:
    captured.execute("CREATE TABLE new (id int PRIMARY KEY)")
    named = replace(captured, tables="public.good, public.new")
    with transaction(captured, "LOCK TABLE new IN SHARE MODE"):
        assert_pending(named.capture_and_compare("good"), "TableLocked", "public.new")
    named.capture_and_compare("good", "new")


@pytest.mark.parametrize(
    "create",
    [
        "CREATE TABLE new (id int PRIMARY KEY, v text)",
        "CREATE TABLE new (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);CREATE TABLE p PARTITION OF new DEFAULT",
    ],
    ids=["table", "partitions"],
)
@pytest.mark.parametrize("locked", ["new", "good"])
def test_a_captured_table_that_is_locked_against_readers_holds_nobody_up(
    captured: Lab, create: str, locked: str
) -> None:
    """The stream reads no table. PostgreSQL's view of a publication waits for the lock, from version 16 on."""
    captured.execute(create)
    captured.capture_and_compare("good", "new")
    captured.execute("INSERT INTO new VALUES (1, 'one'); INSERT INTO good VALUES (2, 'two')")
    with transaction(captured, f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE"):
        started = time.monotonic()
        result = captured.capture()
        assert time.monotonic() - started < HELD_UP_S
        assert not result.in_trouble
        assert result.changes == 2
    captured.assert_equal("good", "new")


@pytest.mark.since(15)  # publications with row filters
def test_a_table_whose_query_fails(captured: Lab) -> None:
    """For a function in its row filter, a damaged block, a row that is too long for the protocol."""
    captured.execute(
        "CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (0), (1);"
        f"ALTER PUBLICATION {captured.config.publication} ADD TABLE new WHERE (10 / id > 0);"
        "INSERT INTO good VALUES (2, 'two'); CREATE TABLE last (id int PRIMARY KEY); INSERT INTO last VALUES (1)"
    )
    result = captured.capture_and_compare("good", "last")
    assert_pending(result, "SourceError", "copying public.new", "division by zero")
    captured.execute("UPDATE good SET v = 'again'")
    assert_pending(captured.capture_and_compare("good", "last"), "SourceError", "division by zero")
    captured.execute("TRUNCATE new; INSERT INTO new VALUES (1)")
    problem = captured.pipeline.table_states()[2].problem
    assert problem is not None
    assert "dbmazz snapshot --tables 'public.new'" in problem.remedy
    captured.pipeline.snapshot([captured.ref("new")])
    captured.execute("INSERT INTO new VALUES (2)")
    captured.capture_and_compare("good", "last", "new")
