"""`ON_BAD_VALUE=quarantine`: a row that DuckDB cannot hold is kept raw beside the table; all others are exact."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import WindowResult
from dbmazz_core.errors import BadValue
from dbmazz_core.model.policies import BadValuePolicy, Mode
from dbmazz_core.settings.by_table import ByTable, parse_by_table
from dbmazz_core.settings.config import FlushConfig, TableConfig
from tests.pipeline.test_column_rules import chosen, hashed
from tests.support.lab import BOTH, Lab, toast

TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2), d timestamp, v text);"
    "ALTER TABLE t REPLICA IDENTITY {identity};"
    "INSERT INTO t SELECT i, i, '2024-01-01', 'v' || i FROM generate_series(1, 6) i"
)
#: What DuckDB 1.4 and 2.0 both refuse.
FAR = "'294276-12-31 23:59:59'"


def quarantining(lab: Lab, rules: str = "quarantine", mode: Mode = Mode.MIRROR) -> Lab:
    return lab.configured(tables=TableConfig(ByTable(mode), parse_by_table("ON_BAD_VALUE", rules, BadValuePolicy)))


def kept(lab: Lab, table: str = "t") -> list[tuple[Any, ...]]:
    """Op, column and row of what is in quarantine, in the source's order."""
    rows = lab.rows(
        f"SELECT op, column_name, row FROM _dbmazz.quarantine WHERE table_name = '{table}' "
        "ORDER BY commit_lsn, ordinal, row::VARCHAR"
    )
    return [(op, column, json.loads(row)) for op, column, row in rows]


def counts(result: WindowResult, lab: Lab, table: str = "t") -> int:
    return result.tables[lab.ref(table)].quarantined


@BOTH
def test_the_life_of_a_row_that_turns_bad(trap: Lab, identity: str) -> None:
    lab = quarantining(trap)
    lab.execute(TABLE.format(identity=identity))
    lab.capture_and_compare("t")
    lab.transactions(
        "INSERT INTO t VALUES (7, 'NaN', NULL, 'bad at once')",
        "INSERT INTO t VALUES (8, 8, NULL, 'good')",
        "UPDATE t SET n = 'NaN' WHERE id = 1",  # the row goes
        "UPDATE t SET n = 'NaN' WHERE id = 2",
        "UPDATE t SET v = 'still bad' WHERE id = 2",
        "UPDATE t SET n = 2.5 WHERE id = 2",  # and comes back
        f"UPDATE t SET d = {FAR}, id = 30 WHERE id = 3",
        "DELETE FROM t WHERE id = 30",  # deletes nothing
        "UPDATE t SET n = 'NaN' WHERE id = 4",
        "UPDATE t SET id = 40, n = 4 WHERE id = 4",  # comes back under another key
        "UPDATE t SET n = 70 WHERE id = 7",
        "INSERT INTO t VALUES (4, 4, '2024-01-01', 'another')",
    )
    result = lab.capture()
    assert lab.rows("SELECT count(*) FROM public.t") == [(7,)]
    lab.execute("DELETE FROM t WHERE n = 'NaN'")  # the one with id 1
    assert kept(lab) == [
        ("insert", "n", {"id": "7", "n": "NaN", "d": None, "v": "bad at once"}),
        ("update", "n", {"id": "1", "n": "NaN", "d": "2024-01-01 00:00:00", "v": "v1"}),
        ("update", "n", {"id": "2", "n": "NaN", "d": "2024-01-01 00:00:00", "v": "v2"}),
        ("update", "n", {"id": "2", "n": "NaN", "d": "2024-01-01 00:00:00", "v": "still bad"}),
        ("update", "d", {"id": "30", "n": "3.00", "d": "294276-12-31 23:59:59", "v": "v3"}),
        ("update", "n", {"id": "4", "n": "NaN", "d": "2024-01-01 00:00:00", "v": "v4"}),
    ]
    assert counts(result, lab) == 6
    assert result.to_dict()["tables"]["public.t"]["quarantined"] == 6
    lab.capture_and_compare("t")
    (state,) = lab.pipeline.status().tables
    assert state.quarantined == 6
    # A copy begins anew.
    lab.pipeline.snapshot([lab.ref("t")])
    lab.capture_and_compare("t")
    assert kept(lab) == []


def test_where_it_happened_is_kept(lab: Lab) -> None:
    lab = quarantining(lab)
    lab.execute(TABLE.format(identity="DEFAULT"))
    lab.capture()
    with lab.database.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO t VALUES (10, 1, NULL, NULL)")
        connection.execute("INSERT INTO t VALUES (11, 'NaN', NULL, NULL)")
        ((xid,),) = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchall()
    lab.capture()
    (row,) = lab.rows("SELECT slot, schema_name, table_name, xid, ordinal, reason FROM _dbmazz.quarantine")
    assert row == (lab.slot, "public", "t", xid, 2, "the value of n (numeric(9,2)) cannot be held by Decimal{9,2}")
    (peeked,) = lab.rows("SELECT commit_lsn < (SELECT lsn FROM _dbmazz.checkpoints) FROM _dbmazz.quarantine")
    assert peeked == (True,)


def test_only_tables_that_are_named_and_error_is_the_default(lab: Lab) -> None:
    lab.execute(TABLE.format(identity="DEFAULT") + "; CREATE TABLE u (LIKE t INCLUDING ALL)")
    lab = quarantining(lab, "u=quarantine")
    lab.capture()
    lab.execute("INSERT INTO u VALUES (1, 'NaN', NULL, NULL)")
    assert counts(lab.capture(), lab, "u") == 1
    lab.transactions("INSERT INTO u VALUES (2, 'NaN', NULL, NULL)", "INSERT INTO t VALUES (7, 'NaN', NULL, NULL)")
    with lab.nothing_changes("public.t", "_dbmazz.quarantine"), pytest.raises(BadValue) as error:
        lab.capture()
    assert "ON_BAD_VALUE='public.t=quarantine'" in error.value.remedy
    assert "COLUMNS_AS_TEXT='public.t.n'" in error.value.remedy
    assert counts(quarantining(lab).capture(), lab) == 1
    assert len(kept(lab, "u")) == 2


def test_bad_keys(trap: Lab) -> None:
    lab = quarantining(trap)
    lab.execute(
        "CREATE TABLE t (k numeric(9,2), j int, v text, PRIMARY KEY (k, j));"
        "INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'), ('NaN', 3, 'c'), (4, 4, 'd')"
    )
    assert counts(lab.capture(), lab) == 1
    lab.transactions(
        "UPDATE t SET v = 'c2' WHERE j = 3",  # bad before and after
        "UPDATE t SET k = 'NaN' WHERE j = 1",
        "UPDATE t SET k = 3 WHERE j = 3",  # good again
        "INSERT INTO t VALUES ('NaN', 5, 'e')",
        "DELETE FROM t WHERE j = 5",
        "UPDATE t SET k = 'NaN' WHERE j = 4",
        "UPDATE t SET v = 'd2', k = 40 WHERE j = 4",
    )
    lab.capture()
    assert sorted(lab.rows("SELECT j, v FROM public.t")) == [(2, "b"), (3, "c2"), (4, "d2")]
    assert [(op, column, row["j"]) for op, column, row in kept(lab)] == [
        ("snapshot", "k", "3"), ("update", "k", "3"), ("update", "k", "1"), ("insert", "k", "5"), ("update", "k", "4"),
    ]  # fmt: skip
    lab.execute("DELETE FROM t WHERE k = 'NaN'")
    lab.capture_and_compare("t")


def test_an_update_without_its_unchanged_value_finds_no_row(trap: Lab) -> None:
    """The value is in no row of the destination any more; with the old image (FULL) it would be in the stream."""
    lab = quarantining(trap)
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2), big text);"
        f"INSERT INTO t SELECT i, i, {toast('x')} FROM generate_series(1, 6) i"
    )
    lab.capture_and_compare("t")
    lab.transactions(
        "UPDATE t SET n = 'NaN' WHERE id IN (1, 2, 3)",
        "UPDATE t SET n = 1 WHERE id = 1",  # without its big value
        "UPDATE t SET id = 20, n = 2 WHERE id = 2",  # the same, under another key
        "UPDATE t SET n = 21 WHERE id = 20",
        "UPDATE t SET n = 3, big = 'sent' WHERE id = 3",  # comes back
        "UPDATE t SET n = 31 WHERE id = 3",
        f"INSERT INTO t VALUES (7, 'NaN', {toast('y')})",
        "UPDATE t SET n = 7 WHERE id = 7",
        f"INSERT INTO t VALUES (8, 8, {toast('z')})",
        "UPDATE t SET n = 81 WHERE id = 8",  # a change before it has the value
        "DELETE FROM t WHERE id = 4",
        f"INSERT INTO t VALUES (4, 'NaN', {toast('w')})",
        "UPDATE t SET n = 41 WHERE id = 4",
    )
    result = lab.capture()
    assert sorted(lab.rows("SELECT id, n FROM public.t")) == [(3, 31), (5, 5), (6, 6), (8, 81)]
    lost = [(row["id"], row["n"], "big" in row) for op, column, row in kept(lab) if column == "big"]
    assert lost == [("1", "1.00", False), ("20", "2.00", False), ("20", "21.00", False), ("7", "7.00", False),
                    ("4", "41.00", False)]  # fmt: skip
    assert counts(result, lab) == 3 + 2 + 5
    lab.execute("UPDATE t SET big = 'small'")
    lab.capture_and_compare("t")


def test_a_table_without_a_key(trap: Lab) -> None:
    lab = quarantining(trap)
    lab.execute(
        "CREATE TABLE bag (x int, n numeric(9,2)); ALTER TABLE bag REPLICA IDENTITY FULL;"
        "INSERT INTO bag VALUES (1, 1), (1, 1), (2, 2), (2, 2), (3, 'NaN'), (3, 'NaN')"
    )
    one = "ctid = (SELECT min(ctid) FROM bag WHERE x = {})"
    assert counts(lab.capture(), lab, "bag") == 2
    lab.transactions(
        f"UPDATE bag SET n = 'NaN' WHERE {one.format(1)}",  # one of two equal rows goes
        f"UPDATE bag SET n = 3 WHERE {one.format(3)}",  # one comes
        f"DELETE FROM bag WHERE {one.format(3)} AND n = 'NaN'",  # nothing goes
        f"UPDATE bag SET x = 4, n = 'NaN' WHERE {one.format(2)}",
        "UPDATE bag SET x = 5 WHERE n = 'NaN' AND x = 4",  # bad before and after
        "INSERT INTO bag VALUES (6, 'NaN'), (6, 6)",
    )
    lab.capture()
    good = lab.database.fetch("SELECT x, n FROM bag WHERE n <> 'NaN'")
    assert Counter(lab.rows("SELECT x, n FROM public.bag")) == Counter(good)
    lab.execute("DELETE FROM bag WHERE n = 'NaN'")
    lab.capture_and_compare("bag")


def test_truncate_and_rows_behind_it(trap: Lab) -> None:
    lab = quarantining(trap)
    lab.execute(TABLE.format(identity="DEFAULT"))
    lab.capture()
    lab.transactions(
        "UPDATE t SET n = 'NaN' WHERE id = 1",
        "TRUNCATE t; INSERT INTO t VALUES (1, 'NaN', NULL, 'behind')",
        "INSERT INTO t VALUES (2, 2, NULL, 'good')",
    )
    lab.capture()
    assert lab.rows("SELECT id FROM public.t") == [(2,)]
    assert kept(lab)[-1] == ("insert", "n", {"id": "1", "n": "NaN", "d": None, "v": "behind"})
    lab.transactions("TRUNCATE t; INSERT INTO t VALUES (1, 'NaN', NULL, NULL)")
    lab.capture()
    assert lab.rows("SELECT id FROM public.t") == []


def test_copied_rows(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2), b bool, f float8, r bytea, big text);"
        "INSERT INTO t VALUES (1, 1, true, 1, '\\x00', 'x'), (2, 'NaN', true, 'Infinity', '\\x00ff', 'y'),"
        " (3, NULL, NULL, NULL, NULL, NULL), (4, 'NaN', false, 0.1, NULL, '')"
    )
    lab = quarantining(lab)
    result = lab.capture()
    assert counts(result, lab) == 2
    assert result.tables[lab.ref("t")].snapshot_rows == 2
    assert sorted(lab.rows("SELECT id FROM public.t")) == [(1,), (3,)]
    assert kept(lab) == [
        ("snapshot", "n", {"id": "2", "n": "NaN", "b": "t", "f": "Infinity", "r": "\\x00ff", "big": "y"}),
        ("snapshot", "n", {"id": "4", "n": "NaN", "b": "f", "f": "0.1", "r": None, "big": ""}),
    ]
    ((at, checkpoint),) = lab.rows("SELECT DISTINCT commit_lsn, snapshot_lsn FROM _dbmazz.quarantine, _dbmazz.tables")
    assert at == checkpoint
    copied = lab.pipeline.snapshot([lab.ref("t")])
    assert copied.to_dict()["tables"] == {"public.t": {"snapshot_rows": 2, "quarantined": 2}}
    assert len(kept(lab)) == 2  # those of the first copy went with it


@BOTH
def test_masks_hold_in_quarantine_too(lab: Lab, identity: str) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2), mail text, phone text, secret text, note text);"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t VALUES (1, 'NaN', 'ann@example.com', '+43 1', 'secret', 'tea')"
    )
    lab = quarantining(chosen(lab, masks="t.mail=hash, t.phone=truncate:3, t.note=null", exclude="t.secret"))
    lab.capture()
    lab.transactions("UPDATE t SET mail = 'bob@example.com'", "UPDATE t SET n = 1, mail = 'eve@example.com'")
    lab.capture()
    assert [(row["mail"], row["phone"], row["note"]) for _, _, row in kept(lab)] == [
        (hashed("ann@example.com"), "+43", None), (hashed("bob@example.com"), "+43", None),
    ]  # fmt: skip
    assert "secret" not in kept(lab)[0][2]
    assert lab.rows("SELECT id, mail FROM public.t") == [(1, hashed("eve@example.com"))]


@pytest.mark.parametrize("streamed", [False, True])
def test_arrays_of_other_dimensions_than_declared(lab: Lab, streamed: bool) -> None:
    lab = quarantining(lab)
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int[], w text[][], h text)")
    if streamed:
        lab.capture()
    rows = [f"({i}, ARRAY[{i}], NULL, NULL)" for i in range(10, 50)]
    rows[7], rows[20] = "(2, '{{1,2},{3,4}}', NULL, 'x')", "(3, '{3}', '{a,b}', NULL)"
    lab.execute(f"INSERT INTO t VALUES {', '.join(rows)}")
    assert counts(lab.capture(), lab) == 2
    (first, second) = sorted(kept(lab), key=lambda entry: entry[2]["id"])
    assert first[1:] == ("v", {"id": "2", "v": "{{1,2},{3,4}}", "w": None, "h": "x"})
    assert (second[1], second[2]["w"]) == ("w", "{a,b}")
    assert lab.rows("SELECT count(*) FROM public.t") == [(38,)]
    lab.execute("UPDATE t SET v = '{5}' WHERE id = 2; DELETE FROM t WHERE id = 3")
    lab.capture_and_compare("t")


def test_rolled_back_with_its_flush(lab: Lab) -> None:
    """Nothing is in quarantine that the table's flush did not commit."""
    lab.execute(TABLE.format(identity="DEFAULT") + "; CREATE TABLE u (LIKE t INCLUDING ALL)")
    lab = quarantining(lab, "t=quarantine")
    lab.capture()
    lab.execute("INSERT INTO t VALUES (7, 'NaN', NULL, NULL); INSERT INTO u VALUES (1, 'NaN', NULL, NULL)")
    with pytest.raises(BadValue):
        lab.capture()
    assert kept(lab) == []
    lab.execute("UPDATE u SET n = 1")
    assert counts(quarantining(lab).capture(), lab) == 1


@pytest.mark.parametrize("mode", Mode)
def test_each_change_is_kept_once_whatever_ends_the_windows(lab: Lab, mode: Mode) -> None:
    lab = quarantining(lab, mode=mode).configured(flush=FlushConfig(size=1))
    lab.execute(TABLE.format(identity="DEFAULT"))
    lab.capture()
    lab.transactions(
        "INSERT INTO t VALUES (7, 'NaN', NULL, NULL)",
        "INSERT INTO t VALUES (8, 8, NULL, 'good')",
        "UPDATE t SET n = 'NaN' WHERE id = 1",
        "UPDATE t SET v = 'still bad' WHERE id = 1",
        "UPDATE t SET n = 1 WHERE id = 1",
        "DELETE FROM t WHERE id = 7",
    )

    def end(report: Progress) -> None:
        if report.phase == "stream" and report.rows:
            raise KeyboardInterrupt

    for _ in range(6):  # after each transaction
        with pytest.raises(KeyboardInterrupt):
            lab.capture(progress=end)
    assert lab.capture().changes == 0
    assert [(op, row["id"], row["v"]) for op, _, row in kept(lab)] == [
        ("insert", "7", None),
        ("update", "1", "v1"),
        ("update", "1", "still bad"),
    ]
    (state,) = lab.pipeline.status().tables
    assert state.quarantined == 3
    if mode is not Mode.CHANGELOG:  # one with rows in quarantine is not complete and cannot be folded
        lab.assert_equal("t")
