"""The resource for assets that read captured tables, and write tables computed from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

import dbmazz_core
from dbmazz_dagster.resource import DbmazzResource

if TYPE_CHECKING:
    import duckdb


class DbmazzReader(dg.ConfigurableResource["DbmazzReader"]):
    """Captured tables for downstream assets, whatever windows do meanwhile.

    @dg.asset(deps=[["public", "orders"]])
    def late_orders(reader: DbmazzReader) -> dg.MaterializeResult:
        with reader.open() as tables:
            orders = tables.frame("public.orders")
        ...

    defs = dg.Definitions(assets=[late_orders], resources={"reader": DbmazzReader.of(shop)})
    """

    path: str = Field(description="Path of the DuckDB file.")
    read_copy: str | None = Field(default=None, description="Path of its read copy, which is read if it exists.")
    timeout_s: float = Field(default=60.0, description="Seconds to wait while others hold the file.")

    @classmethod
    def of(cls, capture: DbmazzResource, **options: Any) -> DbmazzReader:
        """Return the reader of a capture's destination.

        >>> shop = DbmazzResource(source_url="postgres://localhost/shop", tables="orders", sink_url="shop.duckdb")
        >>> DbmazzReader.of(shop).path
        'shop.duckdb'
        """
        return cls(path=capture.sink_url, read_copy=capture.sink_read_copy, **options)

    def open(self) -> dbmazz_core.Reader:
        """Open the read copy, or the file itself: a context manager, see `dbmazz_core.open_reader`.

        Close it soon if there is no read copy: no window can commit meanwhile.
        """
        return dbmazz_core.open_reader(_file(self.path), read_copy=self.read_copy, timeout_s=self.timeout_s)

    @contextmanager
    def _writer(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with dbmazz_core.open_writer(_file(self.path), timeout_s=self.timeout_s) as connection:
            yield connection

    def writer(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Open the file itself for writing, in turns with the windows, see `dbmazz_core.open_writer`."""
        return self._writer()


def _file(path: str) -> str:
    return path.removeprefix("duckdb://")
