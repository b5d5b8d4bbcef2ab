"""Windows that touch many partitions: the catalog is read once for what had committed at that time."""

from __future__ import annotations

from typing import Any

import pytest

from dbmazz_core.connectors.sources.postgres import session
from tests.support.lab import Lab

PARTITIONS = 40


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The OIDs of each read of the catalog."""
    found: list[Any] = []
    read_tables = session.read_tables

    def counted(connection: Any, publication: str, oids: Any, *arguments: Any) -> Any:
        found.append(list(oids))
        return read_tables(connection, publication, oids, *arguments)

    monkeypatch.setattr(session, "read_tables", counted)
    return found


def _partitioned(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE ev (id int, d int, v text, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);"
        f"DO $$ BEGIN FOR i IN 0..{PARTITIONS - 1} LOOP EXECUTE format("
        "'CREATE TABLE ev_%s PARTITION OF ev FOR VALUES FROM (%s) TO (%s)', i, i, i + 1); END LOOP; END $$;"
        f"INSERT INTO ev SELECT i, i % {PARTITIONS}, 'v' FROM generate_series(1, 200) i"
    )
    lab.capture_and_compare("ev")


def test_catalog_is_read_once_for_all_partitions(lab: Lab, reads: list[Any]) -> None:
    _partitioned(lab)
    reads.clear()
    lab.capture()
    idle = len(reads)
    reads.clear()
    lab.execute("UPDATE ev SET v = 'w'")
    lab.capture_and_compare("ev")
    assert len(reads) <= idle + 2


def test_change_between_the_partitions_is_seen(lab: Lab, reads: list[Any]) -> None:
    """Descriptions before and after a schema change, of one window; and of a partition that came in between."""
    _partitioned(lab)
    half = PARTITIONS // 2
    lab.transactions(
        f"UPDATE ev SET v = 'first' WHERE d < {half}",
        "ALTER TABLE ev ADD COLUMN n int DEFAULT 7",
        f"UPDATE ev SET v = 'second' WHERE d >= {half}",
        f"CREATE TABLE ev_new PARTITION OF ev FOR VALUES FROM ({PARTITIONS}) TO (1000)",
        f"INSERT INTO ev VALUES (1000, {PARTITIONS}, 'third', 8)",
        "ALTER TABLE ev RENAME COLUMN v TO w",
        "UPDATE ev SET w = 'fourth' WHERE d % 2 = 0",
    )
    lab.capture_and_compare("ev")


def test_change_while_the_stream_is_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the catalog said for one transaction is not used for one that commits later."""
    _partitioned(lab)
    lab.execute("UPDATE ev SET v = 'a' WHERE d < 3")
    lab.capture_and_compare("ev")
    for number, name in enumerate(("v1", "v2", "v3")):
        old = f"v{number}" if number else "v"
        lab.transactions(
            f"ALTER TABLE ev RENAME COLUMN {old} TO {name}; ALTER TABLE ev ADD COLUMN c{number} int DEFAULT {number}",
            f"UPDATE ev SET {name} = 'b' WHERE d < 9",
        )
        lab.capture_and_compare("ev")
