"""Partitions whose changes come under the name of their root, and their replica identities.

Each partition has a replica identity of its own, which decides what the old tuples of its changes hold. The server
still sends these tuples under the root's name, with the letter of the root's identity (K or O), and NULL for every
column that the partition's identity lacks (pgoutput.c and proto.c; seen on PostgreSQL 14 to 18). The identity is known
from the partition's Relation message, which comes behind the root's and right ahead of the partition's first change
(maybe_send_schema). That order also shows that the message describes a partition: behind every other Relation message
comes a row of the same relation, or a TRUNCATE.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.parser.messages import Relation
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class OldTupleCoverage:
    """Which columns the old tuples of a relation are known to hold.

    Attributes:
        key_only: Whether old tuples hold the key and nothing else for certain, whatever their letter says: the root has
            REPLICA IDENTITY FULL, and at least one partition has not.
        unidentified_partition: A partition whose replica identity lacks the root's key, so that its updates and deletes
            do not identify a row. In the stream they look like those of all other partitions.
    """

    key_only: bool = False
    unidentified_partition: TableRef | None = None


#: Coverage of a relation without partitions, or whose partitions have the root's identity.
FULL_COVERAGE = OldTupleCoverage()


class Partitions:
    """Keeps the descriptions of partitions of captured tables.

    Args:
        roots: OIDs of captured partitioned tables, each with the OIDs of its partitions when the stream began.
    """

    def __init__(self, roots: Mapping[int, Collection[int]]) -> None:
        self._known = {root: {*partitions} for root, partitions in roots.items()}
        # By root and key columns: the partitions with that identity. A root with a thousand partitions is described a
        # thousand times, and hardly ever has more than a few identities.
        self._described: dict[int, dict[frozenset[str], dict[int, TableRef]]] = {root: {} for root in roots}

    def learn(self, message: Relation, root: Relation) -> bool:
        """Keep a partition's description.

        A message with other columns than the root's is not kept: the server applied the root's column list, which
        counts the root's columns, to the partition's columns (pgoutput.c, send_relation_and_attrs). It does not show
        the partition's identity.

        Returns:
            Whether the root is captured and did not have the partition when the stream began.
        """
        if root.oid not in self._described:
            return False
        if {c.name for c in message.columns} == {c.name for c in root.columns}:
            self._keep(message, self._described[root.oid])
        return message.oid not in self._known[root.oid]

    def _keep(self, message: Relation, described: dict[frozenset[str], dict[int, TableRef]]) -> None:
        for same_identity in described.values():
            same_identity.pop(message.oid, None)
        # A partition without replica identity does not matter: the server refuses its updates and deletes.
        if message.replica_identity != "f":
            columns = frozenset(c.name for c in message.columns if c.is_key)
            described.setdefault(columns, {})[message.oid] = TableRef(message.schema, message.name)

    def forget(self, root: int) -> None:
        """Forget the descriptions of a root's partitions, after its columns have changed.

        The partitions' columns have changed too, and their kept descriptions have names of the past. The server
        describes each partition again ahead of its next change.
        """
        if root in self._described:
            self._described[root] = {}

    def old_tuple_coverage(self, root: Relation, schema: TableSchema, *, key_in_doubt: bool) -> OldTupleCoverage:
        """Return which columns old tuples of a relation hold, by the descriptions of its partitions so far.

        With `key_in_doubt` the root is re-snapshotted, and its rows need not be identified.
        """
        identities = self._described.get(root.oid, {}).items()
        partial = [(columns, partitions) for columns, partitions in identities if columns and partitions]
        lacking = [
            partitions for columns, partitions in partial if not schema.key or not columns.issuperset(schema.key)
        ]
        return OldTupleCoverage(
            key_only=root.replica_identity == "f" and bool(partial),
            unidentified_partition=next(iter(lacking[0].values())) if lacking and not key_in_doubt else None,
        )
