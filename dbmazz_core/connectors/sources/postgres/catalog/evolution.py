"""What became of a table between two looks at it: steps that can be taken in place, or that it has to be copied anew.

The stream describes a table by the names and types of its columns, ahead of the first row that comes after a change.
The catalog numbers columns, but it is that of now, and more changes may have come since. Together they prove what
happened, or they do not; then the table is copied anew, which is right whatever happened.

What is certain:

- A column keeps its number through renames; a new column gets a number above all that were given before. Which numbers
  a description means, `column_numbers` tells, or that nobody can.
- As long as the table's storage is the same, no value was rewritten: types changed in name only, and rows that are
  older than a column have the value that the catalog keeps for them, or NULL.
- With other storage but the same versions of all columns, it was TRUNCATE (which the stream tells), VACUUM FULL or the
  like: the values are what they were. Where it may have been something else of which the stream says nothing
  (`SourceTable.storage_tells`), the last TRUNCATE that it told of has to be what gave the table its storage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from dbmazz_core.connectors.sources.postgres.catalog.column_numbers import Seen, columns_described
from dbmazz_core.connectors.sources.postgres.catalog.identity import (
    SourceColumn,
    SourceTable,
    TableIdentity,
)
from dbmazz_core.connectors.sources.postgres.catalog.labels import found_by_new_labels, types_changed
from dbmazz_core.connectors.sources.postgres.catalog.redaction import merged
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.policies import SchemaChangeKind
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.model.schema_events import AddColumn, ChangeType, DropColumn, RenameColumn, SchemaStep
from dbmazz_core.model.source import DescribedColumn
from dbmazz_core.table_ref import quote_identifier

_ANY = SchemaChangeKind.CHANGE_TYPE
#: Layouts of types by OID.
Layouts = Callable[[Collection[int]], Mapping[int, str]]


@dataclass(frozen=True, slots=True)
class Evolution:
    """What happened to a table, in place.

    Attributes:
        steps: In this order; empty where only what the table is has to be recorded.
        identity: What the table is from here on; its columns' targets are the destination's columns of before.
        seen: The source's columns from here on.
    """

    steps: tuple[SchemaStep, ...]
    identity: TableIdentity
    seen: TableSchema


@dataclass(frozen=True, slots=True)
class CopyAnew:
    """What happened cannot be told, or cannot be done in place.

    Attributes:
        reason: A sentence without its subject, the table.
        kind: The kind of change that it is, as far as one can tell.
    """

    reason: str
    kind: SchemaChangeKind


def unheld_default(column: str) -> CopyAnew:
    """A column is new, and the value that it has in older rows is bad: the copy does with them what the policy says."""
    what = f"got column {quote_identifier(column)} with a value in older rows that it cannot hold in the destination"
    return CopyAnew(what, SchemaChangeKind.ADD_COLUMN)


def compare(
    have: TableSchema,
    identity: TableIdentity | None,
    seen: TableSchema,
    now: SourceTable | None,
    *,
    described: Sequence[DescribedColumn] = (),
    layouts: Layouts = lambda _: {},
    settled: bool = False,
    truncated_by: int = 0,
) -> Evolution | CopyAnew:
    """Find out what became of a table.

    Args:
        have: The destination's columns, and the key.
        identity: What the table was when the destination was last made to fit; None where that was not recorded.
        seen: The captured columns as the stream describes them, or as the catalog has them.
        now: The catalog's table, looked up after that; None if it is gone.
        described: All columns as the stream describes them, also those that are not captured; none if `settled`.
        layouts: Tells the layouts of types by OID (`SourceTable.layouts`), as far as these still exist.
        settled: Whether `now` is neither older nor newer than `seen`, which is its schema. Else storage and versions
            may tell of a change that the stream comes to later, and are kept as they were until then.
        truncated_by: Transaction of the last TRUNCATE of the table in the stream; 0: there was none.
    """
    if identity is None:
        return _without_identity(have, seen, now)
    if now is None:
        known = sorted((c.number, c.name) for some in (identity.columns, identity.left_out) for c in some)
        if [name for _, name in known] == [column.name for column in described]:
            return Evolution((), identity, seen)
        return CopyAnew("changed and was dropped", SchemaChangeKind.DROP_COLUMN)
    if now.identity.oid != identity.oid:
        return CopyAnew("was dropped and created again", SchemaChangeKind.DROP_COLUMN)
    if now.identity.published != identity.published:
        return CopyAnew("is published anew: changes may be missing, or rows", SchemaChangeKind.DROP_COLUMN)
    rewritten = _rewritten(identity, now, truncated_by) if settled else None
    for found in (_partitions(identity, now), rewritten):
        if found is not None:
            return found
    for reason in (types_changed(identity, now), None if settled else found_by_new_labels(identity, seen, now)):
        if reason is not None:
            return CopyAnew(reason, SchemaChangeKind.CHANGE_TYPE)
    columns: list[SourceColumn] | CopyAnew
    if settled:
        columns = list(now.identity.columns)
    elif identity.hidden is None:  # by an older version, which did not record what rules leave out
        columns = _numbered(identity, now, [c for c in described if c.name in {*seen.names}], layouts)
    else:
        columns = _numbered(identity, now, described, layouts)
    if not isinstance(columns, CopyAnew):
        columns = _captured(identity, seen, now, columns)
    if isinstance(columns, CopyAnew):
        return columns
    return _steps(have, identity, seen, now, columns, settled=settled)


def _without_identity(have: TableSchema, seen: TableSchema, now: SourceTable | None) -> Evolution | CopyAnew:
    same = [(c.name, c.type) for c in have.columns] == [(c.name, c.type) for c in seen.columns]
    if same and now is not None and now.schema.names == seen.names:
        return Evolution((), now.identity, seen)
    return CopyAnew("changed, and was copied by a version of dbmazz that did not record what it was", _ANY)


def _partitions(identity: TableIdentity, now: SourceTable) -> CopyAnew | None:
    """Rows of a partition that is attached, detached, dropped or truncated come and go without a word."""
    before, after = identity.partitions, now.identity.partitions
    if gone := [oid for oid in before if oid not in after]:
        return CopyAnew(f"lost {len(gone)} of its partitions", SchemaChangeKind.DROP_COLUMN)
    if any(after[oid] != storage for oid, storage in before.items()):
        return CopyAnew("had a partition truncated, rewritten, or detached for a while", SchemaChangeKind.CHANGE_TYPE)
    if any(oid not in before and oid not in now.empty_partitions for oid in after):
        return CopyAnew("had a table attached as a partition", SchemaChangeKind.ADD_COLUMN)
    return None


def _rewritten(identity: TableIdentity, now: SourceTable, truncated_by: int) -> CopyAnew | None:
    """What was written while a table was unlogged is not in the stream."""
    if now.identity.storage == identity.storage or not now.storage_tells or now.truncated_by == truncated_by:
        return None
    return CopyAnew("was rewritten: its rows may have changed while it was unlogged", SchemaChangeKind.CHANGE_TYPE)


def _numbered(
    identity: TableIdentity, now: SourceTable, described: Sequence[DescribedColumn], layouts: Layouts
) -> list[SourceColumn] | CopyAnew:
    """The columns described, captured or not, with their numbers and the names that they have there."""
    before, today = {c.number: c for c in identity.columns}, {c.number: c for c in now.identity.columns}
    unchanged = now.identity.storage == identity.storage
    streamed_before, streamed_today = {*identity.streamed}, {*now.identity.streamed}
    # Live and never in the stream as far as the catalog knows: today, or then and today.
    vanished = {*range(identity.top + 1, now.identity.top + 1), *identity.unpublished} - {*now.identity.unpublished}

    def seen(number: int) -> Seen:
        old, column = before.get(number), today.get(number)
        kept = old is not None and column is not None and old.version == column.version
        return Seen(
            number,
            old.name if old is not None and kept else None,
            now.layouts.get(number, "") if unchanged else "",
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
        return CopyAnew("had columns that came and went, or took others' names: nobody can tell which is which", _ANY)
    return [
        SourceColumn(column.name, number, before[number].version if number in before else "")
        for number, column in zip(choices[0], described, strict=True)
    ]


def _captured(
    identity: TableIdentity, seen: TableSchema, now: SourceTable, columns: Sequence[SourceColumn]
) -> list[SourceColumn] | CopyAnew:
    """Those of the columns that are captured, if they are what was captured before, or new."""
    known, left_out = {c.number for c in identity.columns}, {c.number for c in identity.left_out}
    today = {*now.identity.streamed}
    found = [column for column in columns if column.name in {*seen.names}]
    for column in found:
        if column.number in left_out or (column.number not in known and column.number <= identity.top):
            return _not_captured(column.name)
        if column.number not in known and column.number not in today:
            what = f"has had a column {quote_identifier(column.name)} of which nothing is left"
            return CopyAnew(what, SchemaChangeKind.ADD_COLUMN)
    return found


def _not_captured(name: str) -> CopyAnew:
    return CopyAnew(f"has column {quote_identifier(name)}, which was not captured before", SchemaChangeKind.ADD_COLUMN)


def _steps(
    have: TableSchema,
    identity: TableIdentity,
    seen: TableSchema,
    now: SourceTable,
    columns: list[SourceColumn],
    *,
    settled: bool,
) -> Evolution | CopyAnew:
    before = {c.number: c for c in identity.columns}
    today = {c.number: c for c in now.identity.columns}
    definitions_today = {c.number: d for c, d in zip(now.identity.columns, now.schema.columns, strict=True)}
    definitions = {c.name: c for c in have.columns}
    storage_changed = now.identity.storage != identity.storage
    steps: list[SchemaStep] = []
    kept: list[SourceColumn] = []
    numbers = {c.number for c in columns}
    for old in identity.columns:
        if old.number not in numbers:
            if old.number in today:
                return CopyAnew(f"was published for a while without column {quote_identifier(old.name)}", _ANY)
            if old.target is not None:
                steps.append(DropColumn(old.target))
    for column, definition in zip(columns, seen.columns, strict=True):
        old_column = before.get(column.number)
        if old_column is None:
            if storage_changed:
                return CopyAnew(
                    f"got column {quote_identifier(column.name)} and was rewritten", SchemaChangeKind.ADD_COLUMN
                )
            latest = definitions_today.get(column.number)
            if latest is None or (latest.type, latest.mask) != (definition.type, definition.mask):
                return CopyAnew(
                    f"got column {quote_identifier(column.name)}, which is another one today: what older rows have "
                    "there is not known",
                    SchemaChangeKind.ADD_COLUMN,
                )
            missing = now.missing.get(column.number)
            if missing is not None and missing[0] is None:
                return unheld_default(definition.name)
            steps.append(AddColumn(definition, missing))
            kept.append(replace(column, target=definition.name))
            continue
        version = today[column.number].version if column.number in today else old_column.version
        kept_version = version if settled else old_column.version
        if storage_changed and version != old_column.version:
            return CopyAnew(
                f"was rewritten when column {quote_identifier(column.name)} changed", SchemaChangeKind.CHANGE_TYPE
            )
        target = old_column.target
        if target is not None:
            old_definition = definitions[target]
            if old_definition.mask != definition.mask:
                return CopyAnew(f"has column {quote_identifier(definition.name)} under another mask", _ANY)
            # Where the destination kept an older name, it keeps it.
            if target == old_column.name != definition.name:
                steps.append(RenameColumn(target, definition.name))
            altered = version != old_column.version
            if old_definition.type != definition.type or (altered and not _same_text(old_definition, definition)):
                if not _relabels(old_definition.type, definition.type):
                    return CopyAnew(
                        f"has column {quote_identifier(definition.name)} as {definition.source_type}, which was "
                        f"{old_definition.source_type}",
                        SchemaChangeKind.CHANGE_TYPE,
                    )
                steps.append(ChangeType(definition.name, old_definition, definition))
        kept.append(SourceColumn(definition.name, column.number, kept_version, target))
    after = replace(
        identity,
        storage=now.identity.storage if settled else identity.storage,
        partitions=now.identity.partitions if settled else identity.partitions,
        top=now.identity.top if settled else max([identity.top, *numbers]),
        columns=tuple(kept),
        types=now.identity.types if settled else identity.types,
        type_versions=now.identity.type_versions if settled else identity.type_versions,
        unpublished=now.identity.unpublished if settled else identity.unpublished,
        hidden=merged(identity.hidden, now.identity.hidden, settled=settled),
    )
    return Evolution(tuple(steps), after, seen)


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
