"""An instance of DuckDB that is kept: the file is as free between two flushes, and as well guarded, as without one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pytest

from dbmazz_core.connectors.sinks.duckdb import DuckDBSink
from dbmazz_core.errors import BadValue, DestinationLocked
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.settings.config import SinkConfig
from dbmazz_core.table_ref import TableRef

SCHEMA = TableSchema(
    TableRef("public", "t"),
    (ColumnDef("id", DataType(Kind.INT32), "integer"), ColumnDef("day", DataType(Kind.DATE), "date")),
    ("id",),
)
#: Names that need quoting, are names of DuckDB's own databases, or of the table's schema.
NAMES = ["shop.duckdb", "a 'b' \"c\".duckdb", "public.duckdb", "memory.duckdb", "Temp.duckdb"]


def at(lsn: int) -> Checkpoint:
    return Checkpoint("feed", Lsn(lsn), "7", 1, "shop")


def copy(sink: DuckDBSink, lsn: int, *days: str | None) -> None:
    """Replace the table by rows with these days."""
    with sink.begin() as transaction:
        loader = transaction.create_table(
            TableShape.of(SCHEMA, None), snapshot_lsn=Lsn(lsn), mode=Mode.MIRROR, complete=True
        )
        loader.append(
            pl.DataFrame({"c0": pl.Series(range(len(days)), dtype=pl.Int32), "c1": pl.Series(days, dtype=pl.String)})
        )
        loader.finish()
        transaction.commit(at(lsn))


def table_in(path: Path) -> str:
    """Qualified only where it has to be: the name of the file is that of the schema."""
    return "public.public.t" if path.stem == "public" else "public.t"


def days_in(path: Path) -> list[str | None]:
    """As another process sees them."""
    code = "import duckdb, sys; print(duckdb.connect(sys.argv[1], read_only=True).execute(sys.argv[2]).fetchall())"
    query = f"SELECT CAST(day AS VARCHAR) FROM {table_in(path)} ORDER BY id"
    done = subprocess.run([sys.executable, "-c", code, str(path), query], capture_output=True, text=True, check=True)
    return [row[0] for row in eval(done.stdout)]


@pytest.fixture(params=NAMES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


@pytest.fixture
def sink(path: Path) -> Iterator[DuckDBSink]:
    with DuckDBSink(SinkConfig(url=str(path), lock_timeout_s=0.2), feed="feed", often=True) as sink:
        yield sink


def test_other_processes_read_between_flushes(sink: DuckDBSink, path: Path) -> None:
    for lsn in range(1, 4):
        copy(sink, lsn, "2026-01-01", None, f"0044-03-1{lsn} BC")
        sink.release()
        assert days_in(path) == ["2026-01-01", None, f"0044-03-1{lsn} (BC)"]
        assert sink.read().checkpoint == at(lsn)
        sink.release()
    assert not path.with_name(path.name + ".wal").exists()


def test_a_file_that_another_process_holds_is_waited_for(sink: DuckDBSink, path: Path) -> None:
    copy(sink, 1, "2026-01-01")
    sink.release()
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(DestinationLocked, match=str(other.pid)):
            sink.begin()
        other.communicate()
    copy(sink, 2, "2026-01-02")
    sink.release()
    assert days_in(path) == ["2026-01-02"]


def test_a_connection_of_the_same_process_shares_the_file(sink: DuckDBSink, path: Path) -> None:
    copy(sink, 1, "2026-01-01")
    sink.release()
    with duckdb.connect(str(path)) as own:
        copy(sink, 2, "2026-01-02")
        sink.release()
        query = f"SELECT CAST(day AS VARCHAR) FROM {table_in(path)}"
        assert own.execute(query).fetchall() == [("2026-01-02",)]
    copy(sink, 3, "2026-01-03")
    sink.release()
    assert days_in(path) == ["2026-01-03"]


def test_a_second_sink_of_the_process_waits_for_the_first(sink: DuckDBSink, path: Path) -> None:
    if path.stem.lower() in ("memory", "temp"):
        pytest.skip("both share an instance of the file itself")
    copy(sink, 1, "2026-01-01")
    sink.read()
    with DuckDBSink(SinkConfig(url=str(path), lock_timeout_s=0.2), feed="feed", read_only=True) as other:
        assert sink.begin().rollback() is None
        with pytest.raises(DestinationLocked, match="this process has the DuckDB file"):
            other.read()
        sink.release()
        assert other.read().checkpoint == at(1)


def test_a_bad_value_is_found_and_rolled_back(sink: DuckDBSink, path: Path) -> None:
    copy(sink, 1, "2026-01-01")
    with pytest.raises(BadValue, match="'9999999-01-01'"):
        copy(sink, 2, "9999999-01-01")
    sink.release()
    assert days_in(path) == ["2026-01-01"]
    copy(sink, 3, "2026-01-03")
    sink.release()
    assert days_in(path) == ["2026-01-03"]


def test_a_closed_transaction_leaves_nothing_open(sink: DuckDBSink, path: Path) -> None:
    copy(sink, 1, "2026-01-01")
    sink.begin()
    sink.close()
    assert days_in(path) == ["2026-01-01"]


def test_temporary_files_are_beside_the_file(sink: DuckDBSink, path: Path) -> None:
    copy(sink, 1, "2026-01-01")
    connection = sink._file.open().connection
    assert connection.execute("SELECT current_setting('temp_directory')").fetchone() == (f"{path}.tmp",)
