"""The tables of a stream, as its Relation messages describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.messages import Relation
from dbmazz_core.connectors.sources.postgres.types import BuiltinTypes, ColumnOfType, TypeResolver
from dbmazz_core.schema import TableSchema
from dbmazz_core.tables import TableRef


@dataclass(frozen=True, slots=True)
class KnownRelation:
    """A relation of the stream.

    Attributes:
        message: What the stream said last.
        schema: The same in our words.
        captured: Whether its changes are wanted.
    """

    message: Relation
    schema: TableSchema
    captured: bool


class Relations:
    """Remembers Relation messages by OID.

    Args:
        captured: Which tables' changes are wanted.
        names: Names by OID, as they were when the stream began: a table is captured whatever it is called later.
        keep_names: Whether it also goes by that name, or by its new one.
        keys: Key columns of tables by the catalog. REPLICA IDENTITY FULL flags every column in the message, so the
            key has to come from there.
        types: Tells the columns' types. By default the OIDs alone do, which is enough for built-in types.
    """

    def __init__(
        self,
        captured: Callable[[TableRef], bool],
        keys: Mapping[TableRef, tuple[str, ...]],
        types: TypeResolver | None = None,
        *,
        names: Mapping[int, TableRef] | None = None,
        keep_names: bool = False,
    ) -> None:
        self._captured = captured
        self._names = names or {}
        self._keep_names = keep_names
        self._keys = keys
        self._offline = BuiltinTypes()
        self._types = types or self._offline
        self._by_oid: dict[int, KnownRelation] = {}

    def get(self, oid: int) -> KnownRelation | None:
        """What is known of a relation, None if it was not described yet."""
        return self._by_oid.get(oid)

    def learn(self, message: Relation) -> tuple[KnownRelation | None, KnownRelation]:
        """Take in a Relation message; returns what was known before and what is known now (the same if equal)."""
        old = self._by_oid.get(message.oid)
        if old is not None and old.message == message:
            return old, old
        new = self._known(message)
        self._by_oid[message.oid] = new
        return old, new

    def _known(self, message: Relation) -> KnownRelation:
        # An empty namespace stands for pg_catalog (logicalrep_write_namespace).
        called = TableRef(message.schema or "pg_catalog", message.name)
        known_as = self._names.get(message.oid, called)
        table = known_as if self._keep_names else called
        if message.replica_identity == "f":
            key = self._keys.get(known_as, ())
            key = key if {c.name for c in message.columns}.issuperset(key) else ()
        else:
            key = tuple(c.name for c in message.columns if c.is_key)
        captured = self._captured(known_as)
        types = self._types if captured else self._offline  # of others nothing is read
        described = [ColumnOfType(c.name, c.type_oid, c.type_modifier, c.name in key) for c in message.columns]
        columns = types.columns(table, message.oid, described)
        return KnownRelation(message, TableSchema(table, columns, key), captured)
