"""Publications that the user has made, adopted by name: every form, with row filters, column lists and generated
columns. What they leave out is not in the destination either, neither copied nor streamed, and what PostgreSQL would
refuse to update once it is published so is found by the check.
"""

from __future__ import annotations

import pytest

from dbmazz_core.errors import ReplicaIdentityInsufficient, UnknownValue
from dbmazz_core.settings.config import SnapshotConfig
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.table_ref import TableRef
from tests.support.lab import Lab, toast
from tests.support.oracle import assert_equal

T = TableRef("public", "t")
SCHEMA = pytest.param("FOR TABLES IN SCHEMA public", marks=pytest.mark.since(15))


def filtered_equal(lab: Lab, where: str, table: str = "public.t", columns: str = "*") -> None:
    """The oracle, against the rows of the source that pass a filter."""
    lab.execute(
        f"DROP TABLE IF EXISTS expected.t; CREATE SCHEMA IF NOT EXISTS expected;"
        f"CREATE TABLE expected.t AS SELECT {columns} FROM {table} WHERE {where}"
    )
    assert_equal(lab.database, lab.path, "expected.t", as_table=table)


# -- every form


@pytest.mark.each_value
@pytest.mark.parametrize(
    "publishes",
    [
        "FOR TABLE t, u",
        "FOR ALL TABLES",
        SCHEMA,
        pytest.param("FOR TABLES IN SCHEMA public, TABLE other.t", marks=pytest.mark.since(15)),
    ],
)
@pytest.mark.parametrize("via_root", ["true", "false"])
def test_every_form_of_publication(lab: Lab, publishes: str, via_root: str) -> None:
    lab.execute(
        "CREATE SCHEMA other; CREATE TABLE other.t (id int PRIMARY KEY); INSERT INTO other.t VALUES (99);"
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY);"
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'); INSERT INTO u VALUES (1);"
        f"CREATE PUBLICATION dbmazz_pub {publishes} WITH (publish_via_partition_root = {via_root})"
    )
    lab.capture_and_compare("t", "u")
    lab.transactions(
        "UPDATE t SET v = 'c' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO other.t VALUES (100)",
        "TRUNCATE u; INSERT INTO u VALUES (5)",
    )
    assert lab.capture_and_compare("t", "u").changes == 3


# -- row filters


@pytest.mark.since(15)
@pytest.mark.parametrize(
    ("identity", "where"),
    [
        ("FULL", "n > 10 AND v <> 'out'"),
        ("FULL", "v IS NULL OR length(v) > 1000 OR v LIKE '%{}%' OR v = '100%'"),
        ("USING INDEX t_n", "n > 10"),
        ("DEFAULT", "id % 2 = 0"),
    ],
)
def test_a_row_filter_holds_for_snapshot_and_stream(lab: Lab, identity: str, where: str) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, v text); CREATE UNIQUE INDEX t_n ON t (n);"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t SELECT i, i, CASE WHEN i % 3 = 0 THEN 'out' WHEN i % 5 <> 0 THEN '100%' END "
        f"FROM generate_series(1, 40) i; INSERT INTO t VALUES (50, 50, {toast(50)}), (51, 51, {toast(51)});"
        f"CREATE PUBLICATION dbmazz_pub FOR TABLE t WHERE ({where})"
    )
    assert all("copies all" not in warning.what for warning in lab.pipeline.check().warnings)
    lab.capture()
    filtered_equal(lab, where)
    steps = [
        "INSERT INTO t VALUES (60, 60, 'x'), (61, -161, 'out'), (62, 5000, NULL)",
        "UPDATE t SET n = n + 100 WHERE n < 8",  # into it
        "UPDATE t SET n = -n WHERE n BETWEEN 35 AND 38",  # out of it
        "UPDATE t SET v = 'out' WHERE id = 60; UPDATE t SET v = NULL WHERE id IN (3, 61)",
        "UPDATE t SET n = n + 1000 WHERE id = 50",  # its value out of line stays as it is
        "DELETE FROM t WHERE id % 7 = 0",
        "UPDATE t SET id = id + 100, n = n + 2000 WHERE id BETWEEN 10 AND 15",
        "UPDATE t SET id = id + 1001, n = n + 30000 WHERE id BETWEEN 30 AND 33",
    ]
    for step in steps:
        lab.execute(step)
        lab.capture()
        filtered_equal(lab, where)
    lab.transactions(
        "UPDATE t SET n = n + 100000 WHERE n < 8; UPDATE t SET n = -n - 900000 WHERE n BETWEEN 9 AND 19",
        "UPDATE t SET v = v || v WHERE id % 4 = 0; UPDATE t SET v = 'out' WHERE id % 5 = 0",
        "UPDATE t SET id = id + 5001 WHERE id BETWEEN 20 AND 29; UPDATE t SET n = n + 700000 WHERE id > 5000",
    )
    lab.capture()
    filtered_equal(lab, where)
    lab.execute("TRUNCATE t; INSERT INTO t VALUES (2, 20, 'y')")
    lab.capture()
    filtered_equal(lab, where)


@pytest.mark.since(15)
def test_a_filtered_table_is_copied_in_ranges(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, i FROM generate_series(1, 5000) i;"
        "ANALYZE t; ALTER TABLE t REPLICA IDENTITY FULL;"
        "CREATE PUBLICATION dbmazz_pub FOR TABLE t WHERE (id % 3 = 0 OR v = '1')"
    )
    lab = lab.configured(snapshot=SnapshotConfig(chunk_size=500, parallel_workers=2))
    assert lab.capture().tables[T].snapshot_rows == 1667
    filtered_equal(lab, "id % 3 = 0 OR v = '1'")


@pytest.mark.since(15)
def test_a_filter_that_the_replica_identity_does_not_cover_is_found_by_check(lab: Lab) -> None:
    """PostgreSQL would refuse updates and deletes."""
    lab.execute('CREATE TABLE t (id int PRIMARY KEY, n int, "N, 2" int); INSERT INTO t VALUES (1, 1, 1)')
    lab.execute('CREATE PUBLICATION dbmazz_pub FOR TABLE t WHERE (n > 0 AND id > 0 AND "N, 2" IS NOT NULL)')
    with pytest.raises(ReplicaIdentityInsufficient, match="n, N, 2 is not part of its replica identity") as info:
        lab.capture()
    assert [type(e) for e in lab.pipeline.check().errors] == [ReplicaIdentityInsufficient]
    lab.execute(info.value.remedy)
    lab.capture()
    lab.execute("UPDATE t SET n = 0; INSERT INTO t VALUES (2, 2, 2), (3, -3, 3), (4, 4, NULL)")
    lab.capture()
    filtered_equal(lab, 'n > 0 AND "N, 2" IS NOT NULL')


@pytest.mark.since(15)
def test_a_row_moved_into_the_filter_without_its_toast_value(lab: Lab) -> None:
    """pgoutput sends it as an INSERT, and says that the value is unchanged: nobody has it."""
    lab.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, {toast(1)}), (20, {toast(20)});"
        "CREATE PUBLICATION dbmazz_pub FOR TABLE t WHERE (id > 10)"
    )
    lab.capture()
    warnings = [w.what for w in lab.pipeline.check().warnings]
    assert any('ALTER TABLE "public"."t" REPLICA IDENTITY FULL;' in w for w in warnings)
    lab.execute("UPDATE t SET id = 11 WHERE id = 1")
    with (
        lab.nothing_changes("public.t"),
        pytest.raises(UnknownValue, match="into the publication's row filter") as info,
    ):
        lab.capture()
    statement, command = info.value.remedy.split(" then re-snapshot the table: ")
    assert command == "dbmazz snapshot --tables 'public.t'"
    lab.execute(statement)
    lab.pipeline.snapshot([T])
    lab.capture()
    filtered_equal(lab, "id > 10")
    lab.execute("UPDATE t SET id = 5 WHERE id = 11")
    lab.execute("UPDATE t SET id = 12 WHERE id = 5")
    lab.capture()
    filtered_equal(lab, "id > 10")


# -- column lists


@pytest.mark.since(15)
@pytest.mark.parametrize("identity", ["DEFAULT", "USING INDEX t_k"])
def test_a_column_list_holds_for_snapshot_and_stream(lab: Lab, identity: str) -> None:
    lab.execute(
        "CREATE TABLE t (secret text, id int PRIMARY KEY, big text, more int, k int NOT NULL);"
        "CREATE UNIQUE INDEX t_k ON t (k);"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        f"INSERT INTO t SELECT 's', i, {toast(1)} || i, i, i FROM generate_series(1, 9) i;"
        "CREATE PUBLICATION dbmazz_pub FOR TABLE t (k, id, big)"
    )
    lab.capture()
    filtered_equal(lab, "true", columns="id, big, k")
    lab.transactions(
        "UPDATE t SET secret = 'other'",
        "UPDATE t SET id = id + 100, secret = 'x' WHERE id < 5",
        "UPDATE t SET k = k + 100 WHERE id > 5; DELETE FROM t WHERE id = 6",
        f"INSERT INTO t VALUES ('s', 50, {toast(50)}, 1, 50); UPDATE t SET more = 7",
        "ALTER TABLE t DROP COLUMN secret; UPDATE t SET big = 'short' WHERE id = 7",
    )
    assert not lab.capture().copy_anew
    filtered_equal(lab, "true", columns="id, big, k")
    assert any("leaves out columns more of public.t" in warning.what for warning in lab.pipeline.check().warnings)


@pytest.mark.since(15)
@pytest.mark.parametrize("replica_identity", list(ReplicaIdentityPolicy))
def test_a_column_list_without_the_key_is_found_by_check(lab: Lab, replica_identity: ReplicaIdentityPolicy) -> None:
    lab = lab.configured(source={"replica_identity": replica_identity})
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int, n int); CREATE PUBLICATION dbmazz_pub FOR TABLE t (v)")
    (found,) = [e for e in lab.pipeline.check().errors if isinstance(e, ReplicaIdentityInsufficient)]
    with pytest.raises(ReplicaIdentityInsufficient) as info:
        lab.capture()
    assert info.value.what == found.what
    assert lab.database.fetch("SELECT relreplident::text FROM pg_class WHERE oid = 't'::regclass") == [("d",)]
    lab.transactions(*(statement + ";" for statement in found.remedy.split(";") if statement.strip()))
    lab.execute("INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)")
    lab.capture_and_compare("t")
    lab.execute("UPDATE t SET id = 5 WHERE id = 1; DELETE FROM t WHERE id = 2")
    lab.capture_and_compare("t")


# -- generated columns


@pytest.mark.since(18)
@pytest.mark.parametrize("publishes", ["none", "stored"])
@pytest.mark.parametrize("identity", ["DEFAULT", "USING INDEX t_k"])
def test_stored_generated_columns_come_where_they_are_published(lab: Lab, publishes: str, identity: str) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, k int NOT NULL, big text);"
        f"CREATE UNIQUE INDEX t_k ON t (k); ALTER TABLE t REPLICA IDENTITY {identity};"
        f"INSERT INTO t VALUES (1, DEFAULT, 1, {toast(1)}), (2, DEFAULT, 2, 'x');"
        f"CREATE PUBLICATION dbmazz_pub FOR TABLE t WITH (publish_generated_columns = {publishes})"
    )
    columns = "*" if publishes == "stored" else "id, k, big"
    lab.capture()
    filtered_equal(lab, "true", columns=columns)
    lab.execute(
        "UPDATE t SET id = 7, k = 9 WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (3, DEFAULT, 3)"
    )
    lab.capture()
    filtered_equal(lab, "true", columns=columns)
