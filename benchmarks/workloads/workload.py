"""What a workload is, and how its backlog gets into the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.table_ref import TableRef

#: Numbers that one transaction covers.
_TRANSACTION = 1000


@dataclass(frozen=True, slots=True)
class Backlog:
    """What was written.

    Attributes:
        inserts, updates, deletes: Row changes.
        end: LSN behind it.
    """

    inserts: int
    updates: int
    deletes: int
    end: str

    @property
    def changes(self) -> int:
        """All of them."""
        return self.inserts + self.updates + self.deletes


@dataclass(frozen=True, slots=True)
class Workload:
    """A table, and statements that change rows by number.

    Attributes:
        name: Also the table's, in schema public.
        title: For the report.
        ddl: Creates it.
        insert, update, delete: One statement each, for the numbers from `{first}` to `{last}`.
        mix: How many transactions of each kind go together.
        share: Size of its backlog, as a part of the changes that `orders` has.
        preloaded: Whether the inserted rows are there before the capture begins, and none of the backlog.
        minimum_ratio: Least ratio to `pg_recvlogical` that is asked for, None: none.
    """

    name: str
    title: str
    ddl: str
    insert: str
    update: str
    delete: str
    mix: tuple[int, int, int] = (10, 3, 1)
    share: float = 1.0
    preloaded: bool = False
    minimum_ratio: float | None = None

    @property
    def table(self) -> TableRef:
        """Its table."""
        return TableRef("public", self.name)

    @property
    def publication(self) -> str:
        """Its publication."""
        return f"bench_{self.name}"

    def create(self, server: EmbeddedPostgres, changes: int) -> None:
        """Create table and publication.

        Args:
            server: Gets them.
            changes: As for `fill`.
        """
        with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
            connection.execute(self.ddl.encode())
            if self.preloaded:
                inserts, *_ = self._transactions(changes)
                self._run(connection, self.insert, 0, inserts, inserts)
            connection.execute(f"CREATE PUBLICATION {self.publication} FOR TABLE {self.table.sql}".encode())

    def drop(self, connection: psycopg.Connection) -> None:
        """Drop both."""
        connection.execute(f"DROP PUBLICATION {self.publication}".encode())
        connection.execute(f"DROP TABLE {self.table.sql}".encode())

    def fill(self, server: EmbeddedPostgres, changes: int) -> Backlog:
        """Write the backlog.

        Args:
            server: Has the table.
            changes: How many `orders` has; this one has its share of them, to the next whole mix of transactions.
        """
        inserts, updates, deletes = self._transactions(changes)
        with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
            inserted = 0 if self.preloaded else self._run(connection, self.insert, 0, inserts, inserts)
            updated = self._run(connection, self.update, 0, updates, inserts)
            deleted = self._run(connection, self.delete, inserts // 2, deletes, inserts)
            connection.execute("SELECT pg_switch_wal()")
            row = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
        assert row is not None
        return Backlog(inserted, updated, deleted, end=str(row[0]))

    def _transactions(self, changes: int) -> tuple[int, int, int]:
        """How many transactions of each kind."""
        unit = max(round(changes * self.share / sum(self.mix) / _TRANSACTION), 1)
        inserts, updates, deletes = (part * unit for part in self.mix)
        return inserts, updates, deletes

    @staticmethod
    def _run(connection: psycopg.Connection, statement: str, begin: int, transactions: int, inserted: int) -> int:
        """Rows changed."""
        changed = 0
        for first in _ranges(begin, transactions, inserted):
            text = statement.replace("{first}", str(first)).replace("{last}", str(first + _TRANSACTION - 1))
            changed += connection.execute(text.encode()).rowcount
        return changed


def _ranges(begin: int, transactions: int, inserted: int) -> Iterator[int]:
    """First numbers of transactions, over all that was inserted and from its beginning again."""
    for place in range(transactions):
        yield (begin + place) % inserted * _TRANSACTION
