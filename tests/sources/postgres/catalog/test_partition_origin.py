"""Which partitions were created as such, so that all their rows came through the stream, and which were attached."""

from __future__ import annotations

import pytest

from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import read_fingerprints
from dbmazz_core.connectors.sources.postgres.connection import connect
from dbmazz_core.settings.secret_url import SecretUrl
from tests.support.postgres_fixtures import SourceDatabase

ROOT = "CREATE TABLE r (id int, p int, v text, PRIMARY KEY (id, p)) PARTITION BY RANGE (p)"
DEFAULTS = "CREATE TABLE r (id int DEFAULT 1, p int DEFAULT 2) PARTITION BY RANGE (p)"
BOUNDS = "FOR VALUES FROM (0) TO (10)"
CREATE = f"CREATE TABLE x PARTITION OF r {BOUNDS}"
ALONE = "CREATE TABLE x (LIKE r INCLUDING ALL)"
ATTACH = f"ALTER TABLE r ATTACH PARTITION x {BOUNDS}"
FILL = "INSERT INTO x VALUES (1, 1)"

CREATED = {
    "created": [CREATE],
    "and filled in the same transaction": [f"{CREATE}; {FILL}"],
    "with a constraint": [f"CREATE TABLE x PARTITION OF r (CHECK (p < 7)) {BOUNDS}"],
    "at the second level": [
        f"CREATE TABLE s PARTITION OF r {BOUNDS} PARTITION BY RANGE (p)",
        "CREATE TABLE x PARTITION OF s FOR VALUES FROM (0) TO (5)",
    ],
    "at the second level, in the same transaction": [
        f"CREATE TABLE s PARTITION OF r {BOUNDS} PARTITION BY RANGE (p);"
        "CREATE TABLE x PARTITION OF s FOR VALUES FROM (0) TO (5)"
    ],
    "then indexed, renamed, and the catalog rewritten": [
        CREATE,
        "CREATE INDEX ON x (v)",
        "VACUUM ANALYZE x",
        "ALTER TABLE x RENAME TO x2; ALTER TABLE x2 RENAME TO x",
        "VACUUM FULL pg_attribute",
        "VACUUM FULL pg_inherits",
        "VACUUM FULL pg_class",
    ],
    "in a savepoint": [f"SAVEPOINT a; {CREATE}; RELEASE a"],
}
ATTACHED = {
    "created, filled and truncated": [f"{CREATE}; {FILL}", "TRUNCATE x"],
    "attached later": [ALONE, FILL, ATTACH],
    "made, filled and attached in one transaction": [f"{ALONE}; {FILL}; {ATTACH}"],
    "made from a query and attached": ["DROP TABLE r", "CREATE TABLE r (id int, p int) PARTITION BY RANGE (p)",
                                       f"CREATE TABLE x AS SELECT 1 AS id, 1 AS p; {ATTACH}"],
    "filled under another name": [f"{ALONE}; {FILL}; ALTER TABLE x RENAME TO y; ALTER TABLE y RENAME TO x; {ATTACH}"],
    "created, detached, filled, attached": [f"{CREATE}; ALTER TABLE r DETACH PARTITION x; {FILL}; {ATTACH}"],
    "moved from another table": [
        f"CREATE TABLE o (LIKE r INCLUDING ALL) PARTITION BY RANGE (p); CREATE TABLE x PARTITION OF o {BOUNDS}; {FILL};"
        f"ALTER TABLE o DETACH PARTITION x; {ATTACH}"
    ],
    "filled below a table that is attached": [
        f"CREATE TABLE s (LIKE r INCLUDING ALL) PARTITION BY RANGE (p); CREATE TABLE x PARTITION OF s {BOUNDS}; {FILL};"
        f"ALTER TABLE r ATTACH PARTITION s {BOUNDS}"
    ],
    "made and attached in savepoints": [f"SAVEPOINT a; {ALONE}; {FILL}; RELEASE a; SAVEPOINT b; {ATTACH}; RELEASE b"],
    "attached, and a detaching rolled back": [
        f"{ALONE}; {FILL}; {ATTACH}", "SAVEPOINT a; ALTER TABLE r DETACH PARTITION x; ROLLBACK TO a",
    ],
    "attached, and a change of its columns rolled back": [
        f"{ALONE}; {FILL}; {ATTACH}",
        "SAVEPOINT a; ALTER TABLE r ALTER id TYPE bigint, ALTER p SET STATISTICS 5, ALTER v TYPE varchar;"
        " ROLLBACK TO a",
    ],
    "attached, and a detaching of several steps rolled back": [
        f"{ALONE}; {FILL}; {ATTACH}",
        "SAVEPOINT a; ALTER TABLE r DETACH PARTITION x; ROLLBACK TO a",
        "VACUUM FREEZE pg_attribute", "VACUUM FREEZE pg_inherits",
    ],
}  # fmt: skip


@pytest.mark.matrix
@pytest.mark.parametrize("born", [True, False], ids=["created", "attached"])
def test_how_a_partition_came(matrix_database: SourceDatabase, born: bool) -> None:
    cases = CREATED if born else ATTACHED
    for name, steps in cases.items():
        matrix_database.execute(f"DROP TABLE IF EXISTS r, o CASCADE; {ROOT}")
        for step in steps:
            if "SAVEPOINT" in step:
                step = f"BEGIN; {step}; COMMIT"
            matrix_database.execute(step)
        ((root, leaf),) = matrix_database.fetch("SELECT 'r'::regclass::oid::bigint, 'x'::regclass::oid::bigint")
        with connect(SecretUrl(matrix_database.url, variable="SOURCE_URL"), text_form=True) as connection:
            found = read_fingerprints(connection, [root])[root]
        assert set(found.partitions) == {leaf}
        assert set(found.created_partitions) == ({leaf} if born else set()), name


@pytest.mark.matrix
def test_a_partition_with_defaults_everywhere_counts_as_attached(matrix_database: SourceDatabase) -> None:
    matrix_database.execute(f"{DEFAULTS}; {CREATE}")
    ((root,),) = matrix_database.fetch("SELECT 'r'::regclass::oid::bigint")
    with connect(SecretUrl(matrix_database.url, variable="SOURCE_URL"), text_form=True) as connection:
        assert not read_fingerprints(connection, [root])[root].created_partitions
