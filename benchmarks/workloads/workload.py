"""A workload: a table, its changes, and the backlog that they make on a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.table_ref import TableRef

#: Row numbers of one transaction.
_TRANSACTION = 1000


@dataclass(frozen=True, slots=True)
class Backlog:
    """The changes that were written to the server.

    Attributes:
        inserts, updates, deletes: Number of row changes.
        end: LSN after the last change.
    """

    inserts: int
    updates: int
    deletes: int
    end: str

    @property
    def changes(self) -> int:
        """Number of all row changes."""
        return self.inserts + self.updates + self.deletes


@dataclass(frozen=True, slots=True)
class Workload:
    """A table, and statements that change its rows by number.

    Attributes:
        name: Name of the workload, and of the table in schema public.
        title: Title in the report.
        ddl: Statements that create the table.
        insert, update, delete: Statements for the rows from `{first}` to `{last}`.
        mix: Ratio of inserting, updating and deleting transactions.
        share: Size of the backlog as a fraction of that of `orders`.
        preloaded: Whether rows are inserted before the capture begins, and are not part of the backlog.
        minimum_ratio: Required ratio to the speed of `pg_recvlogical`, None if none is required.
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
        """The table."""
        return TableRef("public", self.name)

    @property
    def publication(self) -> str:
        """Name of the publication."""
        return f"bench_{self.name}"

    def create(self, server: EmbeddedPostgres, changes: int) -> None:
        """Create the table and the publication.

        Args:
            server: Server on which they are created.
            changes: Size of the backlog of `orders`, as for `fill`.
        """
        with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
            connection.execute(self.ddl.encode())
            if self.preloaded:
                inserts, *_ = self._transactions(changes)
                self._run(connection, self.insert, 0, inserts, inserts)
            connection.execute(f"CREATE PUBLICATION {self.publication} FOR TABLE {self.table.sql}".encode())

    def drop(self, connection: psycopg.Connection) -> None:
        """Drop the publication and the table."""
        connection.execute(f"DROP PUBLICATION {self.publication}".encode())
        connection.execute(f"DROP TABLE {self.table.sql}".encode())

    def fill(self, server: EmbeddedPostgres, changes: int) -> Backlog:
        """Write the backlog and return its size.

        Args:
            server: Server with the table.
            changes: Size of the backlog of `orders`. The backlog of this workload is `share` of that, rounded to whole
                mixes of transactions.
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
        """Return the number of inserting, updating and deleting transactions."""
        unit = max(round(changes * self.share / sum(self.mix) / _TRANSACTION), 1)
        inserts, updates, deletes = (part * unit for part in self.mix)
        return inserts, updates, deletes

    @staticmethod
    def _run(connection: psycopg.Connection, statement: str, begin: int, transactions: int, inserted: int) -> int:
        """Run a statement in several transactions, and return the number of changed rows."""
        changed = 0
        for first in _ranges(begin, transactions, inserted):
            text = statement.replace("{first}", str(first)).replace("{last}", str(first + _TRANSACTION - 1))
            changed += connection.execute(text.encode()).rowcount
        return changed


def _ranges(begin: int, transactions: int, inserted: int) -> Iterator[int]:
    """Yield the first row number of each transaction. After the last inserted row, the numbers begin again."""
    for place in range(transactions):
        yield (begin + place) % inserted * _TRANSACTION
