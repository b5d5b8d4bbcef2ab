"""Replica identities of every kind, and changing ones."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from dbmazz_core.errors import ReplicaIdentityInsufficient
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.table_ref import TableRef
from tests.support.lab import Lab, run, toast

TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, a int NOT NULL, b text NOT NULL, big text);"
    "CREATE UNIQUE INDEX t_ba ON t (b, a);"
    f"INSERT INTO t SELECT i, 'c' || i, i, 'b' || i % 3, {toast('big')} || i FROM generate_series(1, 30) i;"
)
IDENTITIES = {
    "default": "REPLICA IDENTITY DEFAULT",
    "full": "REPLICA IDENTITY FULL",
    "index": "REPLICA IDENTITY USING INDEX t_code_key",
    "index in another order": "REPLICA IDENTITY USING INDEX t_ba",
}
#: Every key moves, values out of line stay, rows come and go; {0} tells rounds apart.
CHANGES = (
    "UPDATE t SET a = a + 100 WHERE id % 2 = 0; DELETE FROM t WHERE id % 13 = {0}",
    "UPDATE t SET id = id + 1000 WHERE id % 5 = {0}; UPDATE t SET code = code || '{0}' WHERE a % 3 = {0}",
    "UPDATE t SET b = b || 'x', id = -id WHERE a % 7 = {0}; UPDATE t SET big = 'short' WHERE code LIKE '%{0}'",
    "INSERT INTO t VALUES (500 + {0}, 'n{0}', 5000 + {0}, 'b', NULL)",
    "UPDATE t SET id = id + 5000, code = 'k{0}' || code, a = a + 777, b = 'q' || b WHERE id % 4 = {0}",
)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_every_identity(trap: Lab, identity: str) -> None:
    rounds = [change.format(number) for number in (1, 2) for change in CHANGES]
    run(trap, f"{TABLE} ALTER TABLE t {IDENTITIES[identity]}", *rounds)


@pytest.mark.each_value
@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(IDENTITIES, 2)))
def test_an_identity_changes_between_transactions_and_within_one(lab: Lab, before: str, after: str) -> None:
    lab.execute(f"{TABLE} ALTER TABLE t {IDENTITIES[before]}")
    lab.capture_and_compare("t")
    to, back = (f"ALTER TABLE t {IDENTITIES[name]};" for name in (after, before))
    first, second = ([change.format(number) for change in CHANGES] for number in (1, 2))
    lab.transactions(*first[:2], to, *first[2:4], f"{back} {first[4]}; {to} {second[0]}; {back} {second[1]}", second[2])
    lab.capture_and_compare("t")
    lab.transactions(to, second[3])
    lab.capture_and_compare("t")
    lab.transactions(second[4])
    lab.capture_and_compare("t")


def test_from_full_to_nothing_and_back(lab: Lab) -> None:
    """With nothing, PostgreSQL refuses updates and deletes; setup finds it out first."""
    lab = lab.configured(source={"replica_identity": ReplicaIdentityPolicy.LEAVE})
    lab.execute(f"{TABLE} ALTER TABLE t REPLICA IDENTITY FULL")
    lab.capture_and_compare("t")
    lab.transactions(
        CHANGES[0].format(1),
        "ALTER TABLE t REPLICA IDENTITY NOTHING; INSERT INTO t VALUES (700, 'm', 7, 'n', 'x')",
        "INSERT INTO t VALUES (701, 'q1', 7, 'q1', 'x')",
    )
    assert [type(error) for error in lab.pipeline.check().errors] == [ReplicaIdentityInsufficient]
    with lab.nothing_changes("public.t"), pytest.raises(ReplicaIdentityInsufficient) as info:
        lab.capture()
    lab.execute(info.value.remedy.split(" (or ")[0])
    lab.transactions(CHANGES[1].format(1), CHANGES[4].format(2))
    lab.capture_and_compare("t")


def test_setup_gives_an_identity_to_a_table_that_lost_it(lab: Lab) -> None:
    lab.execute(TABLE + "ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key")
    lab.capture_and_compare("t")
    lab.transactions(
        CHANGES[0].format(1), "ALTER TABLE t DROP CONSTRAINT t_code_key", "INSERT INTO t VALUES (909, 'c1', 1, 'z')"
    )
    assert lab.pipeline.check().ok
    lab.capture_and_compare("t")
    lab.transactions(*(change.format(1) for change in CHANGES[1:4]))
    lab.capture_and_compare("t")


def test_the_primary_key_is_dropped_and_another_one_made(lab: Lab) -> None:
    lab.execute(TABLE)
    lab.capture_and_compare("t")
    lab.transactions(
        CHANGES[0].format(1),
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (code)",
        CHANGES[1].format(1),
        "UPDATE t SET id = 5 WHERE a % 2 = 0",  # not unique any more
        CHANGES[4].format(1),
    )
    lab.capture_and_compare("t")
    lab.transactions("DELETE FROM t WHERE id = 5", "UPDATE t SET code = 'z' || code")
    lab.capture_and_compare("t")


def test_a_key_is_made_deferrable(lab: Lab) -> None:
    """Then it is no replica identity any more."""
    lab.execute(TABLE)
    lab.capture_and_compare("t")
    lab.transactions(
        CHANGES[0].format(1),
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id) DEFERRABLE",
        "INSERT INTO t VALUES (900, 'd', 9, 'd')",
    )
    lab.capture_and_compare("t")
    assert lab.database.fetch("SELECT relreplident::text FROM pg_class WHERE oid = 't'::regclass") == [("f",)]
    lab.transactions("UPDATE t SET id = id + 1", "UPDATE t SET big = NULL WHERE id % 2 = 0", CHANGES[2].format(2))
    lab.capture_and_compare("t")


@pytest.mark.parametrize(
    "index",
    ["CREATE UNIQUE INDEX i ON t (v)", "CREATE UNIQUE INDEX i ON t (id) WHERE id > 0",
     "CREATE UNIQUE INDEX i ON t ((id + 1))",
     "CREATE INDEX i ON t (id)", "ALTER TABLE t ADD CONSTRAINT i UNIQUE (id) DEFERRABLE"],
)  # fmt: skip
def test_what_postgresql_takes_for_no_identity_is_none_to_us(lab: Lab, index: str) -> None:
    lab.execute(f"CREATE TABLE t (id int NOT NULL, v int); {index}; INSERT INTO t VALUES (1, 1), (2, NULL), (3, NULL)")
    with pytest.raises(Exception, match=r"cannot use|cannot be used"):
        lab.execute("ALTER TABLE t REPLICA IDENTITY USING INDEX i")
    leave = lab.configured(source={"replica_identity": ReplicaIdentityPolicy.LEAVE})
    with pytest.raises(ReplicaIdentityInsufficient):
        leave.capture()
    lab.capture_and_compare("t")
    lab.transactions("UPDATE t SET v = v + 1; DELETE FROM t WHERE id = 2", "INSERT INTO t VALUES (2, NULL)")
    lab.capture_and_compare("t")


def test_nulls_in_a_table_whose_only_unique_index_allows_them(trap: Lab) -> None:
    run(
        trap,
        "CREATE TABLE t (k int UNIQUE, v text); ALTER TABLE t REPLICA IDENTITY FULL;"
        f"INSERT INTO t VALUES (NULL, 'a'), (NULL, 'a'), (1, {toast(1)})",
        "UPDATE t SET k = 2 WHERE k = 1",
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE k IS NULL)",
        "INSERT INTO t VALUES (NULL, NULL); UPDATE t SET v = 'b' WHERE v = 'a'",
    )


@pytest.mark.since(18)
def test_generated_columns(lab: Lab) -> None:
    """Stored ones arrive on PostgreSQL 18; as keys they are as good as none before."""
    lab.execute(
        "CREATE TABLE t (id int, twice int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY, v text);"
        f"INSERT INTO t VALUES (1, DEFAULT, {toast(1)}), (2, DEFAULT, 'x')"
    )
    lab.capture_and_compare("t")
    lab.transactions(
        "UPDATE t SET id = id + 1 WHERE id = 2", "UPDATE t SET v = 'y' WHERE id = 3; DELETE FROM t WHERE id = 1"
    )
    lab.capture_and_compare("t")


@pytest.mark.since(18)
@pytest.mark.parametrize("policy", list(ReplicaIdentityPolicy))
def test_virtual_generated_columns_never_arrive(lab: Lab, policy: ReplicaIdentityPolicy) -> None:
    """With FULL, PostgreSQL would refuse every update of such a table: no policy sets it."""
    lab = lab.configured(source={"replica_identity": policy})
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) VIRTUAL)")
    lab.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
    lab.capture()
    lab.execute("UPDATE t SET v = 5 WHERE id = 1; DELETE FROM t WHERE id = 2")
    lab.capture()
    assert lab.rows("SELECT * FROM public.t") == [(1, 5)]
    assert any("generated columns twice" in finding.what for finding in lab.pipeline.check().warnings)


@pytest.mark.each_value
@pytest.mark.since(18)
@pytest.mark.parametrize("policy", list(ReplicaIdentityPolicy))
@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_virtual_generated_columns_without_a_key(lab: Lab, policy: ReplicaIdentityPolicy, identity: str) -> None:
    lab = lab.configured(source={"replica_identity": policy})
    lab.execute("CREATE TABLE t (id int NOT NULL, v int, twice int GENERATED ALWAYS AS (v * 2) VIRTUAL)")
    lab.execute(f"ALTER TABLE t REPLICA IDENTITY {identity}; INSERT INTO t VALUES (1, 1), (2, 2)")
    with pytest.raises(ReplicaIdentityInsufficient, match="virtual generated columns") as info:
        lab.capture()
    assert lab.database.fetch("SELECT count(*) FROM pg_publication") == [(0,)]
    lab.execute("ALTER TABLE t ADD PRIMARY KEY (id);" + info.value.remedy.split(" (this")[0])
    lab.capture()
    lab.execute("UPDATE t SET v = 5, id = 3 WHERE id = 1; DELETE FROM t WHERE id = 2")
    lab.capture()
    assert lab.rows("SELECT * FROM public.t") == [(3, 5)]


def test_every_policy_is_exact(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int, v text); INSERT INTO a VALUES (1, 'x');"
        "INSERT INTO b VALUES (1, 'x'), (1, 'x')"
    )
    full = lab.configured(source={"replica_identity": ReplicaIdentityPolicy.FULL})
    full.capture_and_compare("a", "b")
    lab.execute("UPDATE a SET id = 2; DELETE FROM b WHERE ctid = '(0,1)'")
    replace(lab, tables="a, b").capture_and_compare("a", "b")
    assert TableRef("public", "a") in {state.table for state in lab.pipeline.status().tables}


@pytest.mark.parametrize("rows_between", ["", "UPDATE t SET b = 'y' WHERE a = 10;"], ids=["", "rows between"])
@pytest.mark.parametrize("identity", ["FULL", "DEFAULT"])
def test_key_moves_to_another_column_and_the_former_key_is_dropped(trap: Lab, identity: str, rows_between: str) -> None:
    """Both in one window: the destination's recorded key is the column that the stream no longer has."""
    trap.execute("CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b text); ALTER TABLE t REPLICA IDENTITY FULL")
    trap.execute("INSERT INTO t VALUES (1, 10, 'x'), (2, 20, 'x')")
    trap.capture()
    trap.execute("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (a)")
    trap.execute(f"ALTER TABLE t REPLICA IDENTITY {identity}; {rows_between}")
    trap.execute("ALTER TABLE t DROP COLUMN id; INSERT INTO t VALUES (30, 'z'); DELETE FROM t WHERE a = 20")
    trap.capture_and_compare("public.t")
    trap.execute("UPDATE t SET b = 'w'; DELETE FROM t WHERE a = 30")
    trap.capture_and_compare("public.t")
