"""Positions that look alike, transactions that end in pieces, and positions that are none."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from psycopg.conninfo import make_conninfo

from dbmazz_core.connectors.sources.postgres.parser import messages as m
from dbmazz_core.connectors.sources.postgres.parser.parser import parse
from dbmazz_core.engine.result import StopReason
from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.config import FlushConfig, WindowLimits
from tests.support.lab import Lab, toast

ONE_BY_ONE = WindowLimits(max_changes=1)


def waiting(lab: Lab) -> Iterator[tuple[Lsn, m.CdcMessage]]:
    """The messages in the slot, as SQL shows them."""
    query = (
        "SELECT lsn::text, data FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL, 'proto_version', '1', "
        "'publication_names', 'dbmazz_pub')"
    )
    for lsn, data in lab.database.fetch(query, lab.slot):
        yield Lsn.parse(lsn), parse(data, Lsn.parse(lsn))


def test_a_transaction_that_begins_where_the_last_one_ended_is_not_skipped(lab: Lab) -> None:
    """DBZ-5915, DBZ-6204, flink-cdc#4323: a window that resumes there by a record's LSN leaves it out."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY)")
    lab.capture()
    lab.transactions(*(f"INSERT INTO t VALUES ({i})" for i in range(4)))
    told = list(waiting(lab))
    ends = {message.end_lsn for _, message in told if isinstance(message, m.Commit)}
    assert any(lsn in ends for lsn, message in told if isinstance(message, m.Insert)), "no position is there twice"
    results = [lab.capture(limits=ONE_BY_ONE) for _ in range(4)]
    assert [result.changes for result in results] == [1] * 4
    assert lab.capture_and_compare("t").changes == 0


def test_rows_of_one_copy_are_not_told_apart_by_position(lab: Lab) -> None:
    """debezium/dbz#1554: all have one LSN; a window that ends there takes all of them or none."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY)")
    lab.capture()
    lab.execute("INSERT INTO t VALUES (0)")
    with lab.database.connect() as connection, connection.cursor().copy("COPY t FROM STDIN") as copy:
        copy.write("".join(f"{i}\n" for i in range(1, 200)))
    positions = [lsn for lsn, message in waiting(lab) if isinstance(message, m.Insert)]
    assert len(set(positions)) < len(positions) / 2
    assert lab.capture(limits=ONE_BY_ONE).changes == 1
    assert lab.capture(limits=ONE_BY_ONE).changes == 199
    lab.assert_equal("t")


def test_the_position_of_a_relation_message_is_no_checkpoint(lab: Lab) -> None:
    """They come with LSN 0/0, and may be all that has come of an open transaction when a window is asked to end."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
    lab.capture()
    checkpoints = [lab.checkpoint]
    for statement in ("INSERT INTO t VALUES (1)", "INSERT INTO u VALUES (1)", "TRUNCATE t, u"):
        lab.execute(statement)
        lab.configured(flush=FlushConfig(size=1, max_bytes=1)).capture_and_compare("t", "u")
        checkpoints.append(lab.checkpoint)
    assert checkpoints == sorted(set(checkpoints))
    assert lab.confirmed == lab.checkpoint


def test_the_first_relation_after_a_snapshot_is_no_change_of_the_table(lab: Lab) -> None:
    """etl#716."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')")
    lab.capture()
    lab.execute("UPDATE t SET v = 'b'")
    lab.pipeline.snapshot([lab.ref("t")])
    lab.execute("UPDATE t SET v = v || 'c'; INSERT INTO t VALUES (2, 'd')")
    assert lab.capture_and_compare("t").changes == 2


# -- transactions in pieces


@pytest.fixture
def spilling(lab: Lab) -> Lab:
    """PostgreSQL decodes with so little memory that transactions spill to disk, and we apply in pieces."""
    lab.execute(f"ALTER DATABASE \"{lab.database.name}\" SET logical_decoding_work_mem = '64kB'")
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE bag (v text); INSERT INTO t VALUES (0, '')")
    lab.capture()
    return lab.configured(flush=FlushConfig(size=50, max_bytes=20_000))


def test_an_aborted_subtransaction_takes_its_rows_along_and_no_others(spilling: Lab) -> None:
    """go-pq-cdc#166, #86: also those in front of it, behind it, and at the borders of what was sent at once."""

    def rows(first: int) -> str:
        return f"INSERT INTO t SELECT i, v FROM generate_series({first}, {first + 199}) i, {toast(first)} v(v)"

    spilling.transactions(
        f"BEGIN; {rows(1000)}; SAVEPOINT a; {rows(2000)}; SAVEPOINT b; {rows(3000)}; ROLLBACK TO b; {rows(4000)};"
        "RELEASE a; SAVEPOINT c; UPDATE t SET id = -id; DELETE FROM t WHERE id < -2000;"
        f"INSERT INTO bag SELECT v FROM t; ROLLBACK TO c; {rows(5000)}; UPDATE t SET v = '-' WHERE id % 10 = 0; COMMIT",
        f"BEGIN; {rows(6000)}; TRUNCATE t; ROLLBACK",
        "DO $$ BEGIN FOR i IN 1..50 LOOP BEGIN INSERT INTO t VALUES (i, i);"
        "IF i % 3 = 0 THEN RAISE unique_violation; END IF;"
        "EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END $$",
    )
    result = spilling.capture_and_compare("t", "bag")
    assert (result.stop_reason, result.transactions) == (StopReason.CAUGHT_UP, 2)


def test_a_large_transaction_that_is_rolled_back_beside_others(spilling: Lab) -> None:
    """PostgreSQL 18 tells of such an end even where nothing of it was streamed (estuary/connectors#5228)."""
    big = f"INSERT INTO t SELECT i, v FROM generate_series({{0}}, {{0}} + 400) i, {toast('big')} v(v)"
    with spilling.database.connect() as one, spilling.database.connect() as two:
        for connection, first in ((one, 1000), (two, 2000)):
            connection.execute("BEGIN")
            connection.execute(big.format(first).encode())
        spilling.execute("INSERT INTO t VALUES (1, 'between')")
        assert spilling.capture().changes == 1
        one.execute("ROLLBACK")
        two.execute("UPDATE t SET v = 'x' WHERE id = 1")
        two.execute("COMMIT")
    assert spilling.capture_and_compare("t").changes == 402


def test_a_prepared_transaction_comes_when_it_is_committed(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY)")
    lab.capture()
    lab.transactions(
        "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one'",
        "BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'two'",
        "INSERT INTO t VALUES (3)",
    )
    assert lab.capture_and_compare("t").changes == 1
    lab.transactions("COMMIT PREPARED 'two'", "ROLLBACK PREPARED 'one'")
    assert lab.capture_and_compare("t").changes == 1


@pytest.mark.parametrize("may", [True, False], ids=["allowed", "not allowed"])
def test_the_next_window_does_not_decode_the_wal_of_this_one(lab: Lab, may: bool) -> None:
    """Where the role may execute pg_log_standby_snapshot; else the background writer does so every 15 s."""
    if lab.database.fetch("SELECT current_setting('server_version_num')::int")[0][0] < 160000:
        pytest.skip("PostgreSQL 16")
    role = f"reader_{uuid.uuid4().hex[:8]}"
    lab.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, v text); CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'pw';"
        f"ALTER TABLE t OWNER TO {role}; GRANT CREATE ON DATABASE {lab.database.name} TO {role}"
    )
    if may:
        lab.execute(f"GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO {role}")
    url = make_conninfo(lab.database.url, user=role, password="pw")
    plain = lab.configured(url=url)
    plain.capture()
    for first in (0, 100_000):
        lab.execute(f"INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series({first}, {first + 99_999}) i")
        assert plain.capture().changes == 100_000
    behind = plain.pipeline.source_status().restart_lag_bytes
    assert behind is not None
    if may:
        assert behind < 1 << 20
    lab.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
