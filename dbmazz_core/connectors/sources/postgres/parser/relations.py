"""The relations of a stream, as its Relation messages describe them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules, Projection
from dbmazz_core.connectors.sources.postgres.parser.messages import Relation
from dbmazz_core.connectors.sources.postgres.parser.partitions import FULL_COVERAGE, OldTupleCoverage, Partitions
from dbmazz_core.connectors.sources.postgres.types import BuiltinTypes, ColumnOfType, TypeResolver
from dbmazz_core.connectors.sources.postgres.types.binary import Decoder
from dbmazz_core.connectors.sources.postgres.types.binary_columns import NoBinaryForm, stream_decoder
from dbmazz_core.errors import ConfigError
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.stream import StreamFormat, TextNeeded
from dbmazz_core.table_ref import TableRef

TEXT = StreamFormat("changes are read as records")


@dataclass(frozen=True, slots=True)
class KnownRelation:
    """A relation that the stream has described.

    Attributes:
        message: The last Relation message.
        schema: The captured columns with their core types, and the key.
        projection: Positions of the captured columns in a tuple, and their masks.
        captured: Whether the relation's changes are wanted.
        keep_unreadable: Whether bad values are kept apart, instead of stopping the stream.
        rules_error: Why the rules for columns do not fit the relation, or None. Raised only for changes that are not in
            a snapshot.
        old_tuples: Which columns old tuples hold, where changes come from partitions.
        key_in_doubt: See `RelationDescription`.
        decoders: In a stream in binary form: what reads each captured column. None: the values are text.
        text_needed: Why a stream in binary form cannot bring the relation's rows, or None.
    """

    message: Relation
    schema: TableSchema
    projection: Projection
    captured: bool
    keep_unreadable: bool = False
    rules_error: ConfigError | None = None
    old_tuples: OldTupleCoverage = FULL_COVERAGE
    key_in_doubt: bool = False
    decoders: tuple[Decoder | None, ...] | None = None
    text_needed: str | None = None

    def verify_rules(self) -> None:
        """Check the rules for columns, before any change of the relation is decoded.

        Raises:
            ConfigError: The rules do not fit.
        """
        if self.rules_error is not None:
            raise self.rules_error

    def verify_form(self) -> None:
        """Check the form of the values, before any change of the relation is decoded.

        Raises:
            TextNeeded: The values come in binary form, and have to come as text.
        """
        if self.text_needed is not None:
            raise TextNeeded(self.text_needed)


@dataclass(frozen=True, slots=True)
class DetectedPartition:
    """A relation that was found to be a partition, because its rows come under the name of its root.

    Attributes:
        partition: The partition itself.
        root_before: The root as known before.
        root: The root as known from here on.
        is_new: Whether the root is captured and did not have the partition when the stream began.
    """

    partition: KnownRelation
    root_before: KnownRelation
    root: KnownRelation
    is_new: bool


class Relations:
    """Keeps the relations of a stream by OID.

    Args:
        captured: Returns whether a table's changes are wanted.
        keys: Key columns of tables as in the catalog. Under REPLICA IDENTITY FULL the message flags every column, so
            that the key must come from here. None: the key may have changed since the catalog was read.
        types: Finds the columns' core types. Default: by OID alone, which is enough for built-in types.
        names: Table names by OID when the stream began. A table stays captured after it is renamed.
        keep_names: Whether events name a table as in `names`, or by its name in the stream.
        rules: Which columns are captured, and how they are masked; None: all columns, not masked.
        recorded: Schemas of tables as they were copied; the same rules must have applied.
        columns: Column names of tables as in the catalog, for tables that are not in `recorded`.
        keep_unreadable: Returns whether a table's bad values are kept apart; None: of no table.
        partitions: OIDs of captured partitioned tables, each with the OIDs of its partitions when the stream began.
        watched: Tables by OID whose changes are not wanted, only whether there are any.
        format: The format of values.

    Attributes:
        touched: Watched tables that the stream has described: it describes a table before its first change.
    """

    def __init__(
        self,
        captured: Callable[[TableRef], bool],
        keys: Mapping[TableRef, tuple[str, ...] | None],
        types: TypeResolver | None = None,
        *,
        names: Mapping[int, TableRef] | None = None,
        keep_names: bool = False,
        rules: ColumnRules | None = None,
        recorded: Mapping[TableRef, TableSchema] | None = None,
        columns: Mapping[TableRef, Collection[str]] | None = None,
        keep_unreadable: Callable[[TableRef], bool] | None = None,
        partitions: Mapping[int, Collection[int]] | None = None,
        watched: Mapping[int, TableRef] | None = None,
        format: StreamFormat = TEXT,
    ) -> None:
        self.format = format
        self.touched: set[TableRef] = set()
        self._watched = watched or {}
        self._captured = captured
        self._names = names or {}
        # With `keep_names` another table that takes one of these names meanwhile is not captured.
        self._known_names = {*self._names.values()} if keep_names else set()
        self._keep_names = keep_names
        self._keys = keys
        self._builtin_types = BuiltinTypes()
        self._types = types or self._builtin_types
        self._rules = rules
        self._recorded = recorded or {}
        self._columns = columns or {}
        self._keep_unreadable = keep_unreadable or (lambda _: False)
        self._partitions = Partitions(partitions or {})
        self._by_oid: dict[int, KnownRelation] = {}

    def get(self, oid: int) -> KnownRelation | None:
        """Return a relation by its OID, or None if the stream has not described it."""
        return self._by_oid.get(oid)

    def learn(self, message: Relation) -> tuple[KnownRelation | None, KnownRelation]:
        """Keep a Relation message; return the relation as known before, and as known now (the same if equal)."""
        if message.oid in self._watched:
            self.touched.add(self._watched[message.oid])
        old = self._by_oid.get(message.oid)
        if old is not None and old.message == message:
            return old, old
        if old is not None and [c.name for c in old.message.columns] != [c.name for c in message.columns]:
            self._partitions.forget(message.oid)
        self._by_oid[message.oid] = new = self._with_coverage(self._describe(message, old))
        return old, new

    def detect_partition(self, message: Relation, oid: int) -> DetectedPartition | None:
        """Compare a Relation message with the next message, a row of the relation `oid`.

        Returns:
            If the OIDs differ, the described relation as a partition of relation `oid`; else None.
        """
        before = self._by_oid.get(oid)
        if before is None or oid == message.oid:
            return None
        is_new = self._partitions.learn(message, before.message)
        self._by_oid[oid] = now = self._with_coverage(before)
        return DetectedPartition(self._by_oid[message.oid], before, now, is_new)

    def _with_coverage(self, known: KnownRelation) -> KnownRelation:
        coverage = self._partitions.old_tuple_coverage(known.message, known.schema, key_in_doubt=known.key_in_doubt)
        return replace(known, old_tuples=coverage)

    def _describe(self, message: Relation, old: KnownRelation | None) -> KnownRelation:
        """Apply names, keys, types and rules to a Relation message; `old` is the relation as known before."""
        # An empty namespace is pg_catalog (logicalrep_write_namespace).
        stream_name = TableRef(message.schema or "pg_catalog", message.name)
        catalog_name = self._names.get(message.oid, stream_name)
        table = catalog_name if self._keep_names else stream_name
        is_full = message.replica_identity == "f"
        catalog_key = self._keys.get(catalog_name, ())
        key_in_doubt = is_full and catalog_key is None
        if is_full:
            key = catalog_key or ()
            key = key if {c.name for c in message.columns}.issuperset(key) else ()
        else:
            key = tuple(c.name for c in message.columns if c.is_key)
        captured = self._captured(catalog_name) and (message.oid in self._names or stream_name not in self._known_names)
        types = self._types if captured else self._builtin_types  # rows of other relations are not read
        described = [ColumnOfType(c.name, c.type_oid, c.type_modifier, c.name in key) for c in message.columns]
        columns = types.columns(table, message.oid, described)
        schema, projection = TableSchema(table, columns, key), Projection.whole(len(columns))
        if not captured:
            return KnownRelation(message, schema, projection, captured=False)
        keep_unreadable = self._keep_unreadable(catalog_name)
        rules_error = None
        if self._rules is not None:
            # The rules apply to the name in the catalog: a table that is renamed keeps its redacted columns.
            rules_error = self._rules_error(self._rules, message, catalog_name, old)
            schema, projection = self._rules.apply(schema, catalog_name)
        known = KnownRelation(
            message,
            schema,
            projection,
            captured=True,
            keep_unreadable=keep_unreadable,
            rules_error=rules_error,
            key_in_doubt=key_in_doubt,
        )
        return self._with_decoders(known) if self.format.is_binary else known

    def _with_decoders(self, known: KnownRelation) -> KnownRelation:
        """Add the functions that read the captured columns, or the reason why there are none."""
        decoders = []
        columns = zip(known.schema.columns, known.projection.numbers, known.projection.maskers, strict=True)
        for column, number, masker in columns:
            base = self._types.base(known.message.columns[number].type_oid)
            try:
                decoders.append(stream_decoder(column, base, masker))
            except NoBinaryForm as reason:
                return replace(known, decoders=(), text_needed=f"column {column.name} of {known.schema.table} {reason}")
        return replace(known, decoders=tuple(decoders))

    def _rules_error(
        self, rules: ColumnRules, message: Relation, table: TableRef, old: KnownRelation | None
    ) -> ConfigError | None:
        recorded = self._recorded.get(table)
        known = old.schema.names if old else recorded.names if recorded else self._columns.get(table)
        try:
            is_full = message.replica_identity == "f"
            key = [column.name for column in message.columns if column.is_key and not is_full]
            rules.verify_described(table, [column.name for column in message.columns], key, known)
            if recorded is not None:
                rules.verify_recorded(recorded, [column.name for column in message.columns])
        except ConfigError as error:
            return error
        return None
