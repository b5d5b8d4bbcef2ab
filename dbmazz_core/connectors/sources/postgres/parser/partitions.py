"""Partitions whose changes come under the name of their root, and what their replica identities do to it.

A partition has a replica identity of its own, and it is what the old tuples of its changes hold. The server sends them
under the root's name all the same: with the root's letter in front (K or O), and NULL for every column that the
partition's identity lacks (pgoutput.c and proto.c; seen on 14 to 18). But it describes the partition, behind its root
and right ahead of the first change that comes from it (maybe_send_schema), and that tells: every other description is
followed by a row of the relation itself, or by a TRUNCATE.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.parser.messages import Relation
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class OldTupleCoverage:
    """What the old rows of a relation are worth.

    Attributes:
        key_only: They hold the key and nothing else, whatever their letter says: of REPLICA IDENTITY FULL is only the
            root, not all of the partitions.
        unidentified_partition: A partition whose replica identity lacks the root's key, so that its updates and deletes
            do not identify a row. In the stream they look like those of all other partitions.
    """

    key_only: bool = False
    unidentified_partition: TableRef | None = None


#: Of a relation without partitions, or with nothing wrong about them.
FULL_COVERAGE = OldTupleCoverage()


class Partitions:
    """Remembers how the partitions of captured tables were described.

    Args:
        roots: OIDs of the captured partitioned tables, each with those of the partitions that are known already.
    """

    def __init__(self, roots: Mapping[int, Collection[int]]) -> None:
        self._known = {root: {*partitions} for root, partitions in roots.items()}
        self._described: dict[int, dict[int, Relation]] = {root: {} for root in roots}

    def learn(self, message: Relation, root: Relation) -> bool:
        """Take in a partition's description; whether its root is captured, and did not have it when the stream began.

        With other columns than the root it was described by the root's column list, counted off its own columns
        (pgoutput.c, send_relation_and_attrs), and tells nothing of its identity.
        """
        if root.oid not in self._described:
            return False
        if {c.name for c in message.columns} == {c.name for c in root.columns}:
            self._described[root.oid][message.oid] = message
        return message.oid not in self._known[root.oid]

    def forget(self, root: int) -> None:
        """Take in that a relation's columns have changed, and with them those of its partitions: each is described anew
        ahead of its next change, and the names in what is known of it mean nothing any more."""
        if root in self._described:
            self._described[root] = {}

    def old_tuple_coverage(self, root: Relation, schema: TableSchema, *, key_in_doubt: bool) -> OldTupleCoverage:
        """What old rows of a relation are worth, by the partitions that were described so far.

        Where the key is in doubt the root is copied anew, and nothing has to be known of its rows.
        """
        # Without any identity the server refuses updates and deletes, so that none come from it.
        identities = {
            TableRef(p.schema, p.name): {c.name for c in p.columns if c.is_key}
            for p in self._described.get(root.oid, {}).values()
            if p.replica_identity != "f"
        }
        partial = {ref: columns for ref, columns in identities.items() if columns}
        lacking = [ref for ref, columns in partial.items() if not schema.key or not columns.issuperset(schema.key)]
        return OldTupleCoverage(
            key_only=root.replica_identity == "f" and bool(partial),
            unidentified_partition=lacking[0] if lacking and not key_in_doubt else None,
        )
