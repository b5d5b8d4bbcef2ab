"""One source database, one destination file and the pipeline between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet

from dbmazz_core.engine.result import WindowResult
from dbmazz_core.errors import DbmazzError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import Mode, TableErrorPolicy
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import (
    FlushConfig,
    FollowConfig,
    Settings,
    SinkConfig,
    SnapshotConfig,
    SourceConfig,
    TableConfig,
    WindowLimits,
)
from dbmazz_core.settings.memory import MemoryConfig
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import TableRef
from tests.support.fold import folded
from tests.support.oracle import assert_equal, connect_source
from tests.support.postgres_fixtures import SourceDatabase
from tests.support.reading import reading

#: A text that no compression keeps below the TOAST threshold of 2 kB; {0} makes it another one.
TOAST = "(SELECT string_agg(md5({0}::text || i), '') FROM generate_series(1, 200) AS i)"


BOTH = pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])


def variant(*values: object) -> ParameterSet:
    """A parameter whose twin `make test` has; `make soak` has all of them."""
    return pytest.param(*values, marks=pytest.mark.slow)


#: Columns of a table in mode `soft_delete` behind its own.
MARKS = ("_dbmazz_deleted", "_dbmazz_commit_lsn", "_dbmazz_commit_ts", "_dbmazz_synced_at")


def toast(seed: object) -> str:
    """SQL for a value that PostgreSQL stores out of line."""
    return TOAST.format(f"'{seed}'")


def instead_of_t(table: str, statement: str) -> str:
    """The statement with another table than `t`, so that several stories of `t` fit into one window."""
    return re.sub(r"\b(TABLE|INTO|UPDATE|FROM) t\b", rf"\1 {table}", statement)


@dataclass(slots=True)
class Lab:
    """Arranges with SQL, acts with `Pipeline`, asserts with the oracle.

    Attributes:
        tables: The setting TABLES.
        settings: Groups of `Settings` that differ from the defaults.
    """

    database: SourceDatabase
    path: Path
    tables: str = "public.*"
    settings: dict[str, Any] = field(default_factory=dict)

    def execute(self, statement: str) -> None:
        """Run SQL on the source; several statements are one transaction."""
        self.database.execute(statement)

    def transactions(self, *statements: str) -> None:
        """Run each statement (or several in one string) as a transaction of its own, in one session."""
        with self.database.connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def configured(self, **groups: Any) -> Lab:
        """The same with other settings.

        They are `flush`, `follow`, `limits`, `memory`, `snapshot`, `tables`, `on_error`, and single attributes of
        `source`.
        Without `on_error`, an error of one table stops the run.
        """
        return replace(self, settings=self.settings | groups)

    @property
    def config(self) -> SourceConfig:
        return SourceConfig(
            url=SecretUrl(self.settings.get("url", self.database.url), variable="SOURCE_URL"),
            tables=parse_tables(self.tables),
            slot=self.slot,
            **({"publication": "dbmazz_pub"} | self.settings.get("source", {})),
        )

    @property
    def slot(self) -> str:
        return str(self.settings.get("slot", f"slot_{self.database.name}"))

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(
            Settings(
                source=self.config,
                sink=self.settings.get("sink", SinkConfig(url=str(self.path))),
                snapshot=self.settings.get("snapshot", SnapshotConfig()),
                flush=self.settings.get("flush", FlushConfig()),
                limits=self.settings.get("limits", WindowLimits()),
                follow=self.settings.get("follow", FollowConfig()),
                memory=self.settings.get("memory", MemoryConfig()),
                tables=replace(
                    self.settings.get("tables", TableConfig()),
                    on_error=self.settings.get("on_error", ByTable(TableErrorPolicy.STOP)),
                ),
            )
        )

    def capture(self, **arguments: Any) -> WindowResult:
        """Run one window."""
        return self.pipeline.capture(**arguments)

    @property
    def mode(self) -> Mode:
        """How tables are kept; one mode for all."""
        config: TableConfig = self.settings.get("tables", TableConfig())
        return config.mode.default

    def kept(self, mode: Mode) -> Lab:
        """The same in another mode."""
        return self.configured(tables=TableConfig(mode=ByTable(mode)))

    def assert_equal(self, *tables: str) -> None:
        """The oracle, for tables by name: for what is live, and what the changes come to."""
        names = [name if "." in name else f"public.{name}" for name in tables]
        self.assert_equal_as(*zip(names, names, strict=True))

    def assert_equal_as(self, *pairs: tuple[str, str]) -> None:
        """The oracle, for tables of the source and others that the destination has."""
        if self.mode is Mode.CHANGELOG:
            with connect_source(self.database) as source:
                for table, other in pairs:
                    with folded(self.path, other) as (connection, copy):
                        assert_equal(source, connection, table, as_table=copy)
            return
        live, ignored = ("true", ()) if self.mode is Mode.MIRROR else ("NOT _dbmazz_deleted", MARKS)
        with reading(self.path), connect_source(self.database) as source:  # opened once
            for table, other in pairs:
                assert_equal(source, self.path, table, as_table=other, where=live, ignore=ignored)

    def capture_and_compare(self, *tables: str) -> WindowResult:
        """Run one window, then the oracle."""
        result = self.capture()
        self.assert_equal(*tables)
        return result

    def assert_found_by_check(self, error: DbmazzError) -> None:
        """What stopped a capture, `check` says too, before anybody captures."""
        found = [(type(other), other.object, other.remedy) for other in self.pipeline.check().errors]
        assert (type(error), error.object, error.remedy) in found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Query the destination."""
        with reading(self.path) as connection:
            return connection.execute(query).fetchall()

    @property
    def checkpoint(self) -> Lsn:
        """The checkpoint in the destination."""
        ((lsn,),) = self.rows("SELECT lsn FROM _dbmazz.checkpoints")
        return Lsn(lsn)

    @property
    def confirmed(self) -> Lsn:
        """What the slot has confirmed."""
        ((lsn,),) = self.database.fetch(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", self.slot
        )
        return Lsn.parse(lsn)

    def ref(self, name: str) -> TableRef:
        return TableRef("public", name)

    @contextmanager
    def nothing_changes(self, *tables: str) -> Iterator[None]:
        """The destination's rows and checkpoint, and the slot, stay as they are."""

        def look() -> Any:
            rows = [sorted(self.rows(f"SELECT COLUMNS(*)::VARCHAR FROM {table}"), key=repr) for table in tables]
            return self.checkpoint, self.confirmed, rows

        before = look()
        yield
        assert look() == before


#: A table with a value out of line, for `format(identity=...)`.
BIG_TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t REPLICA IDENTITY {identity};"
    f"INSERT INTO t VALUES (1, 1, {toast('one')}), (2, 2, {toast('two')}), (3, 3, NULL), (4, 4, '')"
)


def run(lab: Lab, setup: str, *transactions: str, tables: tuple[str, ...] = ("t",)) -> None:
    """Set up, copy, run the transactions, capture them in one window, compare."""
    lab.execute(setup)
    lab.capture_and_compare(*tables)
    lab.transactions(*transactions)
    lab.capture_and_compare(*tables)
