"""A database in SQL_ASCII holds any bytes: what is not UTF-8 is a bad value of its row, not the end of everything."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import BadValue
from dbmazz_core.model.policies import BadValuePolicy
from dbmazz_core.settings.by_table import parse_by_table
from dbmazz_core.settings.config import TableConfig
from tests.support.lab import Lab
from tests.support.postgres_fixtures import SourceDatabase, drop_database

ROWS = b"INSERT INTO t VALUES (1, 'plain', NULL), (2, E'caf\\351', '{}'), (3, E'caf\\303\\251', ARRAY[E'\\303\\244'])"
GOOD = [(1, "plain", None), (3, "café", ["ä"])]


@pytest.fixture
def ascii_lab(server: EmbeddedPostgres, duckdb_path: Path) -> Iterator[Lab]:
    database = SourceDatabase(server, f"ascii_{uuid.uuid4().hex[:12]}")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        options = "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
        connection.execute(f"CREATE DATABASE {database.name} {options}".encode())
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text, list text[])")
    yield Lab(database, duckdb_path)
    drop_database(database)


def write(lab: Lab) -> None:
    with psycopg.connect(lab.database.url, autocommit=True, client_encoding="SQL_ASCII") as connection:
        connection.execute(ROWS)


@pytest.mark.parametrize("streamed", [False, True])
def test_bytes_that_are_not_utf_8_go_to_quarantine(ascii_lab: Lab, streamed: bool) -> None:
    policy = parse_by_table("ON_BAD_VALUE", "quarantine", BadValuePolicy)
    lab = ascii_lab.configured(tables=TableConfig(on_bad_value=policy))
    if streamed:
        lab.capture()
    write(lab)
    result = lab.capture()
    assert lab.rows("FROM public.t ORDER BY id") == GOOD
    ((column, row),) = lab.rows("SELECT column_name, row FROM _dbmazz.quarantine")
    assert column == "v"
    assert '"caf\\\\xe9"' in row
    assert result.tables[lab.ref("t")].quarantined == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_by_default_they_stop_and_are_named(ascii_lab: Lab, streamed: bool) -> None:
    if streamed:
        ascii_lab.capture()
    write(ascii_lab)
    with pytest.raises(BadValue, match=r"public\.t, column v \(text\) of the row id = 2: the value 'caf\\\\xe9'"):
        ascii_lab.capture()
    ascii_lab.execute("DELETE FROM t WHERE id = 2")
    ascii_lab.pipeline.snapshot()
    assert ascii_lab.rows("FROM public.t ORDER BY id") == GOOD


@pytest.mark.parametrize("streamed", [False, True])
def test_a_text_names_its_row(ascii_lab: Lab, streamed: bool) -> None:
    ascii_lab.execute("CREATE TABLE named (k text PRIMARY KEY, v text)")
    if streamed:
        ascii_lab.capture()
    with psycopg.connect(ascii_lab.database.url, autocommit=True, client_encoding="SQL_ASCII") as connection:
        connection.execute(b"INSERT INTO named VALUES (E'\\303\\251', E'caf\\351')")
    with pytest.raises(BadValue, match=r"public\.named, column v \(text\) of the row k = 'é': the value 'caf"):
        ascii_lab.capture()
