"""The I/O manager: captured tables as arguments of assets, and what assets return as tables beside them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, PrivateAttr

import dbmazz_core
from dbmazz_core.errors import DbmazzError, DestinationError
from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import TableRef, quote_identifier
from dbmazz_dagster.failures import to_failure
from dbmazz_dagster.tags import TABLE_METADATA

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@functools.cache
def _conversions() -> dict[Any, Callable[[pa.Table], Any]]:
    """Return how an Arrow table becomes what an argument is annotated with."""
    # Not at the top: definitions load without them.
    import duckdb
    import polars as pl
    import pyarrow as pa

    return {
        pl.DataFrame: lambda table: pl.DataFrame(table),
        pl.LazyFrame: lambda table: pl.DataFrame(table).lazy(),
        pa.Table: lambda table: table,
        duckdb.DuckDBPyRelation: lambda table: duckdb.connect().from_arrow(table),
    }


class DbmazzIOManager(dg.ConfigurableIOManager):
    """Gives captured tables to assets as arguments, and writes what assets return into the same DuckDB file.

        @dg.asset(key_prefix="marts", ins={"orders": dg.AssetIn(["public", "orders"])})
        def daily(orders: pl.DataFrame) -> pl.DataFrame:
            return orders.group_by("day").len()

        manager = DbmazzIOManager(path="shop.duckdb")
        defs = dg.Definitions(assets=[shop_tables, daily], resources={"dbmazz": shop, "io_manager": manager})

    Under another key than `io_manager`, the asset names it: `dg.AssetIn(..., input_manager_key="dbmazz_io")`, and
    `io_manager_key="dbmazz_io"` for its result.

    Arguments are annotated with `polars.DataFrame`, `polars.LazyFrame`, `pyarrow.Table` or `duckdb.DuckDBPyRelation`;
    the result is one of these, and becomes a table named by the last two parts of the asset's key. With a read copy,
    all assets of a run read the same copy, so the same LSN, although windows go on meanwhile.

    Attributes:
        path: Path of the DuckDB file.
        read_copy: Path of its read copy; captured tables are read from it if it exists.
        timeout_s: Seconds to wait while others hold the file.
        stale: Give also tables that do not follow the capture, such as paused or failed ones.
    """

    path: str = Field(description="Path of the DuckDB file.")
    read_copy: str | None = Field(default=None, description="Path of its read copy.")
    timeout_s: float = Field(default=60.0, description="Seconds to wait while others hold the file.")
    stale: bool = Field(default=False, description="Give also tables that do not follow the capture.")

    _lsns: dict[str, Lsn] = PrivateAttr(default_factory=dict)

    def load_input(self, context: dg.InputContext) -> Any:
        """Return a table as the argument's annotation says.

        Raises:
            dagster.Failure: The table is not captured, was not copied yet or does not stream, or the annotation is of
                another type; the remedy is in the metadata.
        """
        wanted = context.dagster_type.typing_type
        convert = _conversions().get(wanted)
        if convert is None:
            names = ", ".join(f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in _conversions())
            raise dg.Failure(
                f"argument {context.name} is annotated with {wanted}, which DbmazzIOManager does not give",
                metadata={"remedy": f"annotate it with one of {names}"},
            )
        try:
            return convert(self._read(context))
        except DbmazzError as error:
            raise to_failure(error) from None

    def _read(self, context: dg.InputContext) -> pa.Table:
        table, is_captured = _table(context)
        if not is_captured:
            with dbmazz_core.open_reader(self._path, timeout_s=self.timeout_s) as reader:
                return _own_table(reader, table)
        with dbmazz_core.open_reader(
            self._path, read_copy=self._pinned_copy(context), timeout_s=self.timeout_s
        ) as reader:
            rows = reader.arrow(table, stale=self.stale)
            lsn = reader.lsn
        if lsn is not None:
            context.add_input_metadata({"lsn": str(lsn), "rows": rows.num_rows})
            first = self._lsns.setdefault(_run_id(context), lsn)
            if first != lsn:
                context.log.warning(
                    f"{table} is as of LSN {lsn}, an earlier argument of this run as of {first}: a window has "
                    "committed in between; with a read copy (SINK_READ_COPY), all assets of a run read the same LSN"
                )
        return rows

    def _pinned_copy(self, context: dg.InputContext) -> Path | None:
        """Return the read copy that all assets of this run read: another name of the file, which stays when a new one
        takes the copy's place. Names of finished runs are removed.
        """
        if self.read_copy is None or not Path(self.read_copy).exists():
            return None
        copy, run_id = Path(self.read_copy), _run_id(context)
        pinned = copy.with_name(f".{copy.name}.{run_id}.run")
        if not pinned.exists():
            for other in copy.parent.glob(f".{copy.name}.*.run"):
                run = context.instance.get_run_by_id(other.name.split(".")[-2])
                if run is None or run.is_finished:
                    other.unlink(missing_ok=True)
            try:
                os.link(copy, pinned)
            except FileExistsError:
                pass  # another step of this run was faster
            except OSError as error:
                context.log.debug(f"the read copy cannot be pinned for this run: {error}")
                return copy
        return pinned

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write what an asset returns as a table, in one transaction, in turns with the windows.

        Raises:
            dagster.Failure: The table is captured, or the result is of another type.
        """
        if obj is None:
            return
        ref = _named(context.asset_key)
        if not isinstance(obj, tuple(_conversions())):
            raise dg.Failure(
                f"{context.asset_key.to_user_string()} returned {type(obj).__name__}, which is not written as a table",
                metadata={"remedy": "return a polars frame, an Arrow table or a DuckDB relation; or None"},
            )
        rows = _as_arrow(obj)
        try:
            with dbmazz_core.open_writer(self._path, timeout_s=self.timeout_s) as connection:
                _verify_not_captured(connection, ref, self._path)
                connection.register("dbmazz_rows", rows)
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(ref.schema)}")
                connection.execute(f"CREATE OR REPLACE TABLE {_qualified(connection, ref)} AS FROM dbmazz_rows")
        except DbmazzError as error:
            raise to_failure(error) from None
        context.add_output_metadata({"dagster/row_count": rows.num_rows, "dagster/table_name": str(ref)})

    @property
    def _path(self) -> str:
        return self.path.removeprefix("duckdb://")


def _run_id(context: dg.InputContext) -> str:
    return context.step_context.run_id


def _table(context: dg.InputContext) -> tuple[TableRef, bool]:
    """Return the table of an input, and whether it is a captured one."""
    upstream = context.upstream_output
    metadata = (upstream.definition_metadata if upstream is not None else None) or {}
    if (text := metadata.get(TABLE_METADATA)) is None:
        return _named(context.asset_key), False
    (pattern,) = parse_tables(str(text))
    return TableRef(pattern.schema, str(pattern.name)), True


def _named(key: dg.AssetKey) -> TableRef:
    schema, name = ("main", *key.path)[-2:]
    return TableRef(schema, name)


def _own_table(reader: dbmazz_core.Reader, table: TableRef) -> pa.Table:
    """Read a table that is not captured, or one whose asset does not tell that it is."""
    import duckdb

    if table in reader.states():
        return reader.arrow(table)
    try:
        return reader.connection.sql(f"SELECT * FROM {_qualified(reader.connection, table)}").to_arrow_table()
    except duckdb.CatalogException:
        raise DestinationError(
            f"{reader.path} has no table {table}",
            object=str(table),
            remedy="materialize the asset first, or correct its key: schema and name are its last two parts",
        ) from None


def _as_arrow(value: Any) -> pa.Table:
    import duckdb
    import polars as pl

    if isinstance(value, pl.LazyFrame):
        value = value.collect()
    if isinstance(value, pl.DataFrame):
        return value.to_arrow()
    return value.to_arrow_table() if isinstance(value, duckdb.DuckDBPyRelation) else value


def _verify_not_captured(connection: duckdb.DuckDBPyConnection, table: TableRef, path: str) -> None:
    import duckdb

    try:
        found = connection.execute(
            "SELECT slot FROM _dbmazz.tables WHERE schema_name = ? AND table_name = ?", [table.schema, table.name]
        ).fetchall()
    except duckdb.CatalogException:
        return
    if found:
        raise DestinationError(
            f"{table} in {path} is captured by slot {found[0][0]}; an asset must not write it",
            object=str(table),
            remedy="give the asset another key: its last two parts name the table",
        )


def _qualified(connection: duckdb.DuckDBPyConnection, table: TableRef) -> str:
    ((database,),) = connection.execute("SELECT current_database()").fetchall()
    return f"{quote_identifier(database)}.{table.sql}"
