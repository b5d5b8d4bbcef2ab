"""How a table changed between two looks: steps that can be taken in place, or a re-snapshot.

The stream describes a table by the names and types of its columns, ahead of the first row that comes after a change.
The catalog numbers columns, but it is the catalog of now, and more changes may have come since. Together they prove
what happened, or they do not; then the table is re-snapshotted, which is right whatever happened.

These facts are certain:

- A column keeps its number through renames; a new column gets a number above all that were given before. Which numbers
  a description means is told by `column_numbers`, or is uncertain.
- As long as the table's storage is the same, no value was rewritten: types changed in name only, and rows that are
  older than a column have the value that the catalog keeps for them, or NULL.
- With other storage but the same versions of all columns, the command was TRUNCATE (which the stream tells), VACUUM
  FULL or the like: the values are what they were. Where it may have been a command that the stream does not tell
  (`CatalogTable.storage_tells`), the last TRUNCATE of the stream has to be the one that gave the table its storage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.column_numbers import Seen, columns_described
from dbmazz_core.connectors.sources.postgres.catalog.identity import SourceColumn, TableIdentity
from dbmazz_core.connectors.sources.postgres.catalog.labels import found_by_new_labels, types_changed
from dbmazz_core.connectors.sources.postgres.catalog.redaction import merged
from dbmazz_core.connectors.sources.postgres.catalog.relation_description import DescribedColumn
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.policies import SchemaChangeKind
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.model.schema_events import AddColumn, ChangeType, DropColumn, RenameColumn, Resnapshot, SchemaStep
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.table_ref import quote_identifier

_ANY = SchemaChangeKind.CHANGE_TYPE
#: Layouts of types by OID.
Layouts = Callable[[Collection[int]], Mapping[int, str]]


@dataclass(frozen=True, slots=True)
class Evolution:
    """Changes of a table that can be taken in place.

    Attributes:
        steps: Changes of the destination's columns, in this order; empty where only the identity changed.
        identity: What the table is from here on.
        seen: The source's captured columns from here on.
        targets: By captured column: the destination's column, by its name before the steps.
    """

    steps: tuple[SchemaStep, ...]
    identity: TableIdentity
    seen: TableSchema
    targets: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared: a table as it was recorded, and as it is seen now.

    Attributes:
        known: The destination's table.
        identity: What the source's table was when `known` was recorded.
        seen: The captured columns as the stream describes them, or as the catalog has them.
        now: The catalog's table, looked up after that.
        described: All columns as the stream describes them, also those that are not captured; empty if `settled`.
        settled: Whether `now` is neither older nor newer than `seen`, which is its schema. Else storage and versions
            may come from a change that the stream tells later, and are kept as they were until then.
    """

    known: TableShape
    identity: TableIdentity
    seen: TableSchema
    now: CatalogTable
    described: Sequence[DescribedColumn] = ()
    settled: bool = False

    @property
    def same_storage(self) -> bool:
        """Whether no value was rewritten."""
        return self.now.identity.storage == self.identity.storage

    def evolution(self, layouts: Layouts, truncated_by: int) -> Evolution | Resnapshot:
        """Find out how the table changed.

        Args:
            layouts: Tells the layouts of types by OID (`CatalogTable.layouts`), as far as these still exist.
            truncated_by: Transaction of the last TRUNCATE of the table in the stream; 0: there was none.
        """
        found = self._another_table() or self._partitions() or self._rewritten(truncated_by) or self._types()
        columns = found or self._columns(layouts)
        return columns if isinstance(columns, Resnapshot) else self._steps(columns)

    def _another_table(self) -> Resnapshot | None:
        if self.now.identity.oid != self.identity.oid:
            return Resnapshot("was dropped and created again", SchemaChangeKind.DROP_COLUMN)
        if self.now.identity.published != self.identity.published:
            return Resnapshot("is published anew: changes may be missing, or rows", SchemaChangeKind.DROP_COLUMN)
        return None

    def _rewritten(self, truncated_by: int) -> Resnapshot | None:
        """Changes that were written while a table was unlogged are not in the stream."""
        told = not self.now.storage_tells or self.now.truncated_by == truncated_by
        if not self.settled or self.same_storage or told:
            return None
        return Resnapshot("was rewritten: its rows may have changed while it was unlogged", _ANY)

    def _partitions(self) -> Resnapshot | None:
        """Rows of a partition that is attached, detached, dropped or truncated are not in the stream."""
        before, after = self.identity.partitions, self.now.identity.partitions
        if gone := [oid for oid in before if oid not in after]:
            return Resnapshot(f"lost {len(gone)} of its partitions", SchemaChangeKind.DROP_COLUMN)
        if any(after[oid] != storage for oid, storage in before.items()):
            return Resnapshot("had a partition truncated, rewritten, or detached for a while", _ANY)
        if any(oid not in before and oid not in self.now.empty_partitions for oid in after):
            return Resnapshot("had a table attached as a partition", SchemaChangeKind.ADD_COLUMN)
        return None

    def _types(self) -> Resnapshot | None:
        found = types_changed(self.identity, self.now)
        if found is None and not self.settled:
            found = found_by_new_labels(self.identity, self.seen, self.now)
        return None if found is None else Resnapshot(found, _ANY)

    # -- which columns were meant

    def _columns(self, layouts: Layouts) -> list[SourceColumn] | Resnapshot:
        """Return the captured columns with their numbers, and the names that they have in `seen`."""
        columns: list[SourceColumn] | Resnapshot
        if self.settled:
            columns = list(self.now.identity.columns)
        elif self.identity.redacted is None:  # recorded by an older version, without the columns that rules exclude
            columns = self._numbered([c for c in self.described if c.name in {*self.seen.names}], layouts)
        else:
            columns = self._numbered(self.described, layouts)
        return columns if isinstance(columns, Resnapshot) else self._captured(columns)

    def _numbered(self, described: Sequence[DescribedColumn], layouts: Layouts) -> list[SourceColumn] | Resnapshot:
        """Return the described columns, captured or not, with their numbers."""
        identity, now = self.identity, self.now
        before, today = {c.number: c for c in identity.columns}, {c.number: c for c in now.identity.columns}
        streamed_before, streamed_today = {*identity.streamed}, {*now.identity.streamed}
        # Live, and never in the stream as far as the catalog knows: today, or then and today.
        vanished = {*range(identity.top + 1, now.identity.top + 1), *identity.unpublished} - {*now.identity.unpublished}

        def seen(number: int) -> Seen:
            old, column = before.get(number), today.get(number)
            kept = old is not None and column is not None and old.version == column.version
            return Seen(
                number,
                old.name if old is not None and kept else None,
                now.layouts.get(number, "") if self.same_storage else "",
                always=number in streamed_before and number in streamed_today,
                lasts=number > identity.top and number in streamed_today,
            )

        columns = [seen(number) for number in sorted(streamed_before | streamed_today | vanished)]
        choices = columns_described(columns, [(column.name, "") for column in described])
        if len(choices) > 1:
            layout_of = layouts([column.type_oid for column in described])
            named = [(column.name, layout_of.get(column.type_oid, "")) for column in described]
            choices = columns_described(columns, named)
        if len(choices) != 1:
            what = "had columns that came and went, or took others' names: nobody can tell which is which"
            return Resnapshot(what, _ANY)
        return [
            SourceColumn(column.name, number, before[number].version if number in before else "")
            for number, column in zip(choices[0], described, strict=True)
        ]

    def _captured(self, columns: Sequence[SourceColumn]) -> list[SourceColumn] | Resnapshot:
        """Return the captured columns among these, if each was captured before or is new."""
        identity = self.identity
        known, excluded = {c.number for c in identity.columns}, {c.number for c in identity.excluded}
        today = {*self.now.identity.streamed}
        found = [column for column in columns if column.name in {*self.seen.names}]
        for column in found:
            name = quote_identifier(column.name)
            if column.number in excluded or (column.number not in known and column.number <= identity.top):
                return Resnapshot(f"has column {name}, which was not captured before", SchemaChangeKind.ADD_COLUMN)
            if column.number not in known and column.number not in today:
                return Resnapshot(f"has had a column {name} of which nothing is left", SchemaChangeKind.ADD_COLUMN)
        return found

    # -- steps

    def _steps(self, columns: Sequence[SourceColumn]) -> Evolution | Resnapshot:
        steps = self._dropped({c.number for c in columns})
        if isinstance(steps, Resnapshot):
            return steps
        before = {c.number: c for c in self.identity.columns}
        kept: list[SourceColumn] = []
        targets: dict[str, str | None] = {}
        for column, definition in zip(columns, self.seen.columns, strict=True):
            old = before.get(column.number)
            if old is None:
                added = self._added(column, definition)
                if isinstance(added, Resnapshot):
                    return added
                steps.append(added)
                kept.append(column)
                targets[column.name] = definition.name
                continue
            altered = self._altered(old, definition)
            if isinstance(altered, Resnapshot):
                return altered
            steps += altered
            version = self._version(old) if self.settled else old.version
            kept.append(SourceColumn(definition.name, column.number, version))
            targets[definition.name] = self.known.targets[old.name]
        return Evolution(tuple(steps), self._identity_with(tuple(kept)), self.seen, targets)

    def _dropped(self, numbers: Collection[int]) -> list[SchemaStep] | Resnapshot:
        today, steps = {c.number for c in self.now.identity.columns}, list[SchemaStep]()
        for old in self.identity.columns:
            if old.number in numbers:
                continue
            if old.number in today:
                return Resnapshot(f"was published for a while without column {quote_identifier(old.name)}", _ANY)
            target = self.known.targets[old.name]
            if target is not None:
                steps.append(DropColumn(target))
        return steps

    def _added(self, column: SourceColumn, definition: ColumnDef) -> AddColumn | Resnapshot:
        name = quote_identifier(column.name)
        if not self.same_storage:
            return Resnapshot(f"got column {name} and was rewritten", SchemaChangeKind.ADD_COLUMN)
        today = {c.number: d for c, d in zip(self.now.identity.columns, self.now.schema.columns, strict=True)}
        latest = today.get(column.number)
        if latest is None or (latest.type, latest.mask) != (definition.type, definition.mask):
            what = f"got column {name}, which is another one today: what older rows have there is not known"
            return Resnapshot(what, SchemaChangeKind.ADD_COLUMN)
        missing = self.now.missing.get(column.number)
        if missing is not None and missing[0] is None:
            return Resnapshot.for_default(definition.name)
        return AddColumn(definition, missing)

    def _altered(self, old: SourceColumn, definition: ColumnDef) -> list[SchemaStep] | Resnapshot:
        """Return what happened to a column that was there before."""
        version, name = self._version(old), quote_identifier(definition.name)
        if not self.same_storage and version != old.version:
            return Resnapshot(f"was rewritten when column {quote_identifier(definition.name)} changed", _ANY)
        target = self.known.targets[old.name]
        if target is None:
            return []
        (old_definition,) = (column for column in self.known.schema.columns if column.name == target)
        if old_definition.mask != definition.mask:
            return Resnapshot(f"has column {name} under another mask", _ANY)
        steps: list[SchemaStep] = []
        # Where the destination kept an older name, it keeps it.
        if target == old.name != definition.name:
            steps.append(RenameColumn(target, definition.name))
        altered = version != old.version
        if old_definition.type != definition.type or (altered and not _same_text(old_definition, definition)):
            if not _relabels(old_definition.type, definition.type):
                types = f"as {definition.source_type}, which was {old_definition.source_type}"
                return Resnapshot(f"has column {name} {types}", _ANY)
            steps.append(ChangeType(definition.name, old_definition, definition))
        return steps

    def _version(self, old: SourceColumn) -> str:
        """Return the version that a column has today; the recorded one if it is gone."""
        today = {c.number: c.version for c in self.now.identity.columns}
        return today.get(old.number, old.version)

    def _identity_with(self, columns: tuple[SourceColumn, ...]) -> TableIdentity:
        identity, today = self.identity, self.now.identity
        redacted = merged(identity.redacted, today.redacted, settled=self.settled)
        if not self.settled:
            top = max([identity.top, *(column.number for column in columns)])
            return replace(identity, top=top, columns=columns, redacted=redacted)
        return replace(
            identity,
            storage=today.storage,
            partitions=today.partitions,
            top=today.top,
            columns=columns,
            types=today.types,
            type_versions=today.type_versions,
            unpublished=today.unpublished,
            redacted=redacted,
        )


def of_dropped_table(
    known: TableShape, identity: TableIdentity, seen: TableSchema, described: Sequence[DescribedColumn]
) -> Evolution | Resnapshot:
    """Return how a table had changed when the stream described it, if it is gone today."""
    listed = sorted((c.number, c.name) for some in (identity.columns, identity.excluded) for c in some)
    if [name for _, name in listed] == [column.name for column in described]:
        return Evolution((), identity, seen, known.targets)
    return Resnapshot("changed and was dropped", SchemaChangeKind.DROP_COLUMN)


def without_identity(known: TableShape, seen: TableSchema, now: CatalogTable | None) -> Evolution | Resnapshot:
    """Return how a table changed that an older version copied without recording its identity."""
    same = [(c.name, c.type) for c in known.schema.columns] == [(c.name, c.type) for c in seen.columns]
    if same and now is not None and now.schema.names == seen.names:
        return Evolution((), now.identity, seen, TableShape.of(seen, None).targets)
    return Resnapshot("changed, and was copied by a version of dbmazz that did not record what it was", _ANY)


def _relabels(old: DataType, new: DataType) -> bool:
    """Whether the destination's values become the source's by a cast, where the source rewrote nothing."""
    match old.kind, new.kind:
        case Kind.DECIMAL, Kind.DECIMAL:
            return old.scale == new.scale
        case Kind.DECIMAL, Kind.STRING:
            return old.precision != old.scale  # DuckDB writes .50 of these
        case (Kind.TIMESTAMP, Kind.TIMESTAMPTZ) | (Kind.TIMESTAMPTZ, Kind.TIMESTAMP):
            return True
        case _:
            return False


#: Types whose values have the same text, and are stored alike.
_ALIKE = ({"text", "character varying", "citext"}, {"bit", "bit varying"})
#: Modifiers, fields of intervals, brackets, and the schema of an extension that may be in any.
_NOT_THE_NAME = re.compile(r"\([\d,-]+\)|(?<=^interval) .*|\[\]|^\w+\.(?=citext\b)")


def _same_text(old: ColumnDef, new: ColumnDef) -> bool:
    """Whether a column that is kept as PostgreSQL's text, masked or not, has the same text under both types."""
    if new.type.leaf.kind is not Kind.STRING:
        return True
    before, after = (_NOT_THE_NAME.sub("", column.source_type) for column in (old, new))
    return before == after or any({before, after} <= alike for alike in _ALIKE)
