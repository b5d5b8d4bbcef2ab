"""The demo's comparison finds whatever differs, and nothing else."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dbmazz_core.cli import main
from dbmazz_core.demo import headless
from dbmazz_core.demo.compare import MAX_LISTED, TableComparison, compare
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.demo.shop import TABLES, create_shop
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings
from dbmazz_core.table_ref import TableRef
from tests.support.postgres_fixtures import SourceDatabase, create_database, drop_database


@pytest.fixture(scope="module")
def database(server: EmbeddedPostgres) -> Iterator[SourceDatabase]:
    """The demo's shop; no test here changes it."""
    database = create_database(server)
    with database.connect() as connection:
        create_shop(connection, random.Random(1))
    yield database
    drop_database(database)


@pytest.fixture(scope="module")
def first_capture(database: SourceDatabase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The DuckDB file that the shop was captured into."""
    path = tmp_path_factory.mktemp("captured") / "shop.duckdb"
    settings = {
        "SOURCE_URL": database.url,
        "TABLES": "public.*",
        "SINK_URL": str(path),
        "SOURCE_SLOT_NAME": database.name,
        "SOURCE_PUBLICATION_NAME": database.name,
    }
    Pipeline(Settings.from_env(settings)).capture()
    return path


@pytest.fixture
def captured(first_capture: Path, duckdb_path: Path) -> Path:
    """A copy, to do something to."""
    return Path(shutil.copy(first_capture, duckdb_path))


def tampered(path: Path, statement: str) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute(statement)


def different(database: SourceDatabase, path: Path) -> TableComparison:
    """The one table that differs."""
    (comparison,) = (c for c in compare(database.url, path, TABLES) if not c.equal)
    return comparison


def test_equal_after_capture(database: SourceDatabase, captured: Path) -> None:
    comparisons = compare(database.url, captured, TABLES)
    assert all(c.equal for c in comparisons), comparisons
    assert [c.table for c in comparisons] == list(TABLES)
    assert all(c.source_rows == c.destination_rows > 100 for c in comparisons)


def test_missing_row(database: SourceDatabase, captured: Path) -> None:
    tampered(captured, "DELETE FROM public.orders WHERE id = 7")
    found = different(database, captured)
    assert (found.missing, found.extra, found.changed) == (1, 0, 0)
    assert found.differences[0].startswith("only in the source: (7, ")


def test_extra_row(database: SourceDatabase, captured: Path) -> None:
    tampered(captured, "INSERT INTO public.customers VALUES (9999, 'nobody', 'x', false, NULL)")
    found = different(database, captured)
    assert (found.missing, found.extra, found.changed) == (0, 1, 0)
    assert found.differences == ("only in the destination: (9999, nobody, x, false, NULL)",)


def test_doubled_row(database: SourceDatabase, captured: Path) -> None:
    tampered(captured, "INSERT INTO public.orders FROM public.orders WHERE id = 7")
    found = different(database, captured)
    assert (found.missing, found.extra, found.changed) == (0, 1, 0)


@pytest.mark.parametrize(
    "change",
    [
        "orders SET total = total + 0.01",
        "orders SET ordered_at = ordered_at + INTERVAL 1 MICROSECOND",
        "customers SET newsletter = NOT newsletter",
        "customers SET name = NULL",
        "order_items SET attributes = replace(attributes, '{', '{ ')",  # the same document, not the same text
    ],
)
def test_changed_value(database: SourceDatabase, captured: Path, change: str) -> None:
    tampered(captured, f"UPDATE public.{change} WHERE id = 7")
    found = different(database, captured)
    assert (found.missing, found.extra, found.changed) == (0, 0, 1)
    column = change.split(" SET ")[1].split(" ")[0]
    assert found.differences[0].startswith(f"key (7): {column} is ")


def test_many_differences_are_cut_short(database: SourceDatabase, captured: Path) -> None:
    tampered(captured, "DELETE FROM public.orders")
    found = different(database, captured)
    assert found.missing == found.source_rows
    assert len(found.differences) == MAX_LISTED + 1


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("DROP TABLE public.orders", "does not exist"),
        ("ALTER TABLE public.orders DROP COLUMN total", "has columns"),
        ("ALTER TABLE public.orders RENAME status TO state", "has columns"),
    ],
)
def test_other_columns(database: SourceDatabase, captured: Path, statement: str, what: str) -> None:
    tampered(captured, statement)
    found = different(database, captured)
    assert what in found.differences[0]


def test_headless_says_which_rows_differ(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def sabotaged(url: str, destination: Path, tables: Iterable[TableRef]) -> Any:
        tampered(
            destination, "UPDATE public.customers SET name = 'wrong' WHERE id = (SELECT max(id) FROM public.customers)"
        )
        return compare(url, destination, tables)

    monkeypatch.setattr(headless, "compare", sabotaged)
    keep = str(tmp_path / "kept")
    assert main(["demo", "--headless", "--seconds", "1", "--json", "--keep", keep]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["equal"]
    customers = report["tables"]["public.customers"]
    assert (customers["equal"], customers["changed"]) == (False, 1)
    assert "'wrong' in the destination" in customers["differences"][0]
    assert report["tables"]["public.orders"]["equal"]
