"""The tables of a stream, as its Relation messages describe them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules, Projection
from dbmazz_core.connectors.sources.postgres.parser.messages import Relation
from dbmazz_core.connectors.sources.postgres.parser.partitions import FULL_COVERAGE, OldTupleCoverage, Partitions
from dbmazz_core.connectors.sources.postgres.types import BuiltinTypes, ColumnOfType, TypeResolver
from dbmazz_core.errors import ConfigError
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class KnownRelation:
    """A relation of the stream.

    Attributes:
        message: What the stream said last.
        schema: The same in our words: of the columns that are captured.
        projection: Which these are among the tuples' values, and how they are masked.
        captured: Whether its changes are wanted.
        lenient: Whether its bad values are kept apart, instead of stopping the stream.
        rules_error: Why the rules for columns do not fit it. Of no concern to changes that a snapshot has.
        old_tuples: What its old rows are worth, where they come from partitions.
        key_in_doubt: See `NewSchema`.
    """

    message: Relation
    schema: TableSchema
    projection: Projection
    captured: bool
    lenient: bool = False
    rules_error: ConfigError | None = None
    old_tuples: OldTupleCoverage = FULL_COVERAGE
    key_in_doubt: bool = False

    def verify_rules(self) -> None:
        """Raise ConfigError if the rules for columns do not fit: before any of its changes is looked at."""
        if self.rules_error is not None:
            raise self.rules_error


@dataclass(frozen=True, slots=True)
class DetectedPartition:
    """What it tells that rows of a relation come under the name of another one, its root.

    Attributes:
        partition: What is known of the relation itself.
        root_before, root: What was known of the root, and what is from here on.
        is_new: Whether the root is captured, and did not have the partition when the stream began.
    """

    partition: KnownRelation
    root_before: KnownRelation
    root: KnownRelation
    is_new: bool


class Relations:
    """Remembers Relation messages by OID.

    Args:
        captured: Which tables' changes are wanted.
        names: Names by OID, as they were when the stream began: a table is captured whatever it is called later.
        keep_names: Whether it also goes by that name, or by its new one.
        keys: Key columns of tables by the catalog. REPLICA IDENTITY FULL flags every column in the message, so the
            key has to come from there. None: it may have been another one since.
        types: Tells the columns' types. By default the OIDs alone do, which is enough for built-in types.
        rules: Which columns are captured, and how they are masked; None: all, as they are.
        recorded: Tables as they were copied; they have to have been copied under the same rules.
        columns: Column names of tables by the catalog, where nothing is recorded.
        lenient: Of which tables bad values are kept apart; None: of none.
        partitions: OIDs of captured partitioned tables, each with those of the partitions that are known already.
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
        lenient: Callable[[TableRef], bool] | None = None,
        partitions: Mapping[int, Collection[int]] | None = None,
    ) -> None:
        self._captured = captured
        self._names = names or {}
        # Of known tables. Another one that goes by such a name for a while is not captured.
        self._known_names = {*self._names.values()} if keep_names else set()
        self._keep_names = keep_names
        self._keys = keys
        self._builtin_types = BuiltinTypes()
        self._types = types or self._builtin_types
        self._rules = rules
        self._recorded = recorded or {}
        self._columns = columns or {}
        self._lenient = lenient or (lambda _: False)
        self._partitions = Partitions(partitions or {})
        self._by_oid: dict[int, KnownRelation] = {}

    def get(self, oid: int) -> KnownRelation | None:
        """What is known of a relation, None if it was not described yet."""
        return self._by_oid.get(oid)

    def learn(self, message: Relation) -> tuple[KnownRelation | None, KnownRelation]:
        """Take in a Relation message; returns what was known before and what is known now (the same if equal)."""
        old = self._by_oid.get(message.oid)
        if old is not None and old.message == message:
            return old, old
        if old is not None and [c.name for c in old.message.columns] != [c.name for c in message.columns]:
            self._partitions.forget(message.oid)
        self._by_oid[message.oid] = new = self._with_coverage(self._known(message, old))
        return old, new

    def detect_partition(self, message: Relation, oid: int) -> DetectedPartition | None:
        """Take in of which relation the row right behind a Relation message is: another one is the root of this one."""
        before = self._by_oid.get(oid)
        if before is None or oid == message.oid:
            return None
        is_new = self._partitions.learn(message, before.message)
        self._by_oid[oid] = now = self._with_coverage(before)
        return DetectedPartition(self._by_oid[message.oid], before, now, is_new)

    def _with_coverage(self, known: KnownRelation) -> KnownRelation:
        coverage = self._partitions.old_tuple_coverage(known.message, known.schema, key_in_doubt=known.key_in_doubt)
        return replace(known, old_tuples=coverage)

    def _known(self, message: Relation, old: KnownRelation | None) -> KnownRelation:
        # An empty namespace stands for pg_catalog (logicalrep_write_namespace).
        called = TableRef(message.schema or "pg_catalog", message.name)
        known_as = self._names.get(message.oid, called)
        table = known_as if self._keep_names else called
        is_full = message.replica_identity == "f"
        catalog_key = self._keys.get(known_as, ())
        key_in_doubt = is_full and catalog_key is None
        if is_full:
            key = catalog_key or ()
            key = key if {c.name for c in message.columns}.issuperset(key) else ()
        else:
            key = tuple(c.name for c in message.columns if c.is_key)
        captured = self._captured(known_as) and (message.oid in self._names or called not in self._known_names)
        types = self._types if captured else self._builtin_types  # of others nothing is read
        described = [ColumnOfType(c.name, c.type_oid, c.type_modifier, c.name in key) for c in message.columns]
        columns = types.columns(table, message.oid, described)
        schema, projection = TableSchema(table, columns, key), Projection.whole(len(columns))
        if not captured:
            return KnownRelation(message, schema, projection, captured=False)
        lenient = self._lenient(known_as)
        if self._rules is None:
            return KnownRelation(message, schema, projection, captured=True, lenient=lenient, key_in_doubt=key_in_doubt)
        # The rules are those for the name that the catalog had: a table that is renamed keeps what it hides.
        rules_error = self._rules_error(self._rules, message, known_as, old)
        schema, projection = self._rules.apply(schema, known_as)
        return KnownRelation(
            message,
            schema,
            projection,
            captured=True,
            lenient=lenient,
            rules_error=rules_error,
            key_in_doubt=key_in_doubt,
        )

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
