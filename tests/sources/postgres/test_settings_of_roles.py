"""Settings of roles and databases that would change how dbmazz's sessions read or write."""

from __future__ import annotations

import pytest

from tests.support.lab import Lab

#: Values whose text, and conditions whose result, depend on settings.
TABLES = (
    "CREATE TABLE t (id int PRIMARY KEY, e text, n bigint, f float8, b bytea, at timestamptz, i interval, c regclass);"
    "INSERT INTO t VALUES (1, 'x', 2, 0.1, '\\x00ff', '2024-01-31 12:00', '1 day 2 hours', 'pg_class'), "
    "(2, '\\', NULL, 1e300, '\\x5c', NULL, NULL, 'pg_type')"
)
CHANGES = (
    "INSERT INTO t SELECT id + 10, e, n, f, b, at, i, c FROM t; UPDATE t SET e = e || 'y' WHERE id = 2;"
    "DELETE FROM t WHERE id = 1"
)


@pytest.mark.parametrize(
    "setting",
    [
        "quote_all_identifiers = on",
        "search_path = public, pg_catalog",
        "default_transaction_read_only = on",
        "default_transaction_isolation = serializable",
        "default_transaction_deferrable = on",
        "standard_conforming_strings = off",
        "exit_on_error = on",
        "datestyle = 'German, DMY'",
        "bytea_output = escape",
        "client_encoding = latin1",
        "gin_fuzzy_search_limit = 1",
    ],
)
def test_settings_of_the_database(lab: Lab, setting: str) -> None:
    name = lab.database.name
    # A name that PostgreSQL then shows qualified: the driver of the snapshot looks for "int4recv".
    lab.execute("CREATE FUNCTION int4recv(text) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    lab.execute(TABLES)
    lab.execute(f"ALTER DATABASE {name} SET {setting}")
    assert lab.pipeline.check().ok
    lab.capture()
    lab.execute(f"SET TRANSACTION READ WRITE; {CHANGES}")
    lab.capture()
    lab.execute("SET TRANSACTION READ WRITE; CREATE TABLE n (id int PRIMARY KEY)")
    lab.capture()
    lab.execute(f"SET TRANSACTION READ WRITE; ALTER DATABASE {name} RESET ALL")
    lab.assert_equal("t", "n")
    lab.execute(f"ALTER DATABASE {name} SET {setting}")
    assert len(lab.pipeline.teardown()) == 2
