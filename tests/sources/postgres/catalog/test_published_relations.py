"""The tables of a publication are those of PostgreSQL's view, and no locked table is waited for."""

from __future__ import annotations

import pytest

from dbmazz_core.connectors.sources.postgres.catalog.published_relations import LEAF_PARTITIONS, published_relations
from tests.support.postgres_fixtures import SourceDatabase

TABLES = """
    CREATE SCHEMA one; CREATE SCHEMA two;
    CREATE TABLE one.plain (id int PRIMARY KEY, a text, b text);
    CREATE TABLE one.generated (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
    CREATE TABLE one.dropped (id int PRIMARY KEY, gone int, c int); ALTER TABLE one.dropped DROP COLUMN gone;
    CREATE UNLOGGED TABLE one.unlogged (id int);
    CREATE TABLE two.parent (id int); CREATE TABLE two.child () INHERITS (two.parent);
    CREATE TABLE one.root (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE one.leaf1 PARTITION OF one.root FOR VALUES IN (1);
    CREATE TABLE two.middle PARTITION OF one.root FOR VALUES IN (2, 3) PARTITION BY LIST (id);
    CREATE TABLE one.deep PARTITION OF two.middle DEFAULT;
    CREATE TABLE two.empty_root (id int) PARTITION BY LIST (id);
    CREATE VIEW one.view AS SELECT 1 AS one;
"""
PUBLICATIONS = [
    "FOR ALL TABLES",
    "FOR TABLE one.plain, one.root, two.parent",
    "FOR TABLE ONLY two.parent, one.leaf1, two.middle",
    "FOR TABLE one.root, one.leaf1, one.deep",
    "FOR TABLE one.plain (id, b), one.generated WHERE (a > 1), one.dropped",
    "FOR TABLES IN SCHEMA one",
    "FOR TABLES IN SCHEMA two",
    "FOR TABLES IN SCHEMA one, TABLE two.middle, two.parent",
]


@pytest.mark.matrix
def test_they_are_those_of_the_view(matrix_database: SourceDatabase) -> None:
    database = matrix_database
    database.execute(TABLES)
    version = int(database.fetch("SHOW server_version_num")[0][0])
    attnames = "NULL::text[]"
    if version >= 150000:
        kept = "true" if version >= 180000 else "a.attgenerated = ''"
        attnames = f"""ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = v.relid AND a.attnum > 0
            AND a.attname = ANY (v.attnames) AND {kept} ORDER BY a.attnum)"""
    row_filter = "v.rowfilter" if version >= 150000 else "NULL"
    view = f"""SELECT v.relid::bigint, v.schemaname::text, v.tablename::text, {attnames}, {row_filter}
        FROM (SELECT *, format('%I.%I', schemaname, tablename)::regclass AS relid FROM pg_publication_tables) v"""
    ours = "SELECT relid::bigint, schemaname::text, tablename::text, attnames, rowfilter FROM ({}) AS r"
    for what in PUBLICATIONS:
        if version < 150000 and ("SCHEMA" in what or "(" in what):
            continue
        for options in ("true", "false", "true, publish_generated_columns = stored"):
            if "generated" in options and version < 180000:
                continue
            database.execute(f"CREATE PUBLICATION p {what} WITH (publish_via_partition_root = {options})")
            expected = sorted(database.fetch(view), key=repr)
            assert expected
            assert sorted(database.fetch(ours.format(published_relations(version))), key=repr) == expected, what
            database.execute("DROP PUBLICATION p")


@pytest.mark.matrix
def test_leaf_partitions_are_those_of_the_function(matrix_database: SourceDatabase) -> None:
    matrix_database.execute(TABLES)
    for root in ("one.root", "two.middle", "one.leaf1", "two.empty_root", "two.parent", "one.plain"):
        # For a table that is no partition, the function returns nothing.
        (expected,) = matrix_database.fetch(
            "SELECT coalesce(array_agg(t.relid::oid::bigint ORDER BY t.relid), "
            f"ARRAY['{root}'::regclass::oid::bigint]) "
            f"FROM pg_partition_tree('{root}') t JOIN pg_class c ON c.oid = t.relid "
            "WHERE c.relkind <> 'p'"
        )
        leaves = LEAF_PARTITIONS.format(root=f"'{root}'::regclass")
        (found,) = matrix_database.fetch(f"SELECT array_agg(relid::bigint ORDER BY relid) FROM {leaves} AS l")
        assert found == expected or (found, root) == ((None,), "two.empty_root")
