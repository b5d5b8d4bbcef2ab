"""What became of a table between two looks at it: steps that can be taken in place, or that it has to be copied anew.

The stream describes a table by the names and types of its columns, ahead of the first row that comes after a change.
The catalog numbers columns, but it is that of now, and more changes may have come since. Together they prove what
happened, or they do not; then the table is copied anew, which is right whatever happened.

What is certain:

- A column keeps its number through renames; a new column gets a number above all that were given before. So a name
  that the catalog has under the recorded number is that column, under a higher one a new column.
- As long as no higher number was given, there is no new column, and a new name is a rename.
- As long as the table's storage is the same, no value was rewritten: types changed in name only, and rows that are
  older than a column have the value that the catalog keeps for them, or NULL.
- With other storage but the same versions of all columns, it was TRUNCATE (which the stream tells), VACUUM FULL or the
  like: the values are what they were. Where it may have been something else of which the stream says nothing
  (`SourceTable.storage_tells`), the last TRUNCATE that it told of has to be what gave the table its storage.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise

import polars as pl

from dbmazz_core.datatypes import DataType, Kind
from dbmazz_core.hidden import HiddenColumn, merged
from dbmazz_core.identity import SourceColumn, SourceTable, TableIdentity
from dbmazz_core.schema import ColumnDef, TableSchema
from dbmazz_core.table_options import SchemaChangeKind
from dbmazz_core.tables import quote_identifier


@dataclass(frozen=True, slots=True, eq=False)
class AddColumn:
    """A column is new. Rows that were there before have the value `missing`, of its carrier dtype; None: NULL."""

    column: ColumnDef
    missing: pl.Series | None

    kind = SchemaChangeKind.ADD_COLUMN

    def __str__(self) -> str:
        default = "" if self.missing is None else f" with {self.missing[0]!r} in older rows"
        return f"column {quote_identifier(self.column.name)} {self.column.source_type} was added{default}"


@dataclass(frozen=True, slots=True)
class DropColumn:
    """A column is gone."""

    name: str

    kind = SchemaChangeKind.DROP_COLUMN

    def __str__(self) -> str:
        return f"column {quote_identifier(self.name)} was dropped"


@dataclass(frozen=True, slots=True)
class RenameColumn:
    """A column has another name."""

    old: str
    new: str

    kind = SchemaChangeKind.RENAME_COLUMN

    def __str__(self) -> str:
        return f"column {quote_identifier(self.old)} was renamed to {quote_identifier(self.new)}"


@dataclass(frozen=True, slots=True)
class ChangeType:
    """A column has another type, and no value had to be rewritten for it."""

    name: str
    old: ColumnDef
    new: ColumnDef

    kind = SchemaChangeKind.CHANGE_TYPE

    def __str__(self) -> str:
        return f"column {quote_identifier(self.name)} was {self.old.source_type} and is {self.new.source_type}"


SchemaStep = AddColumn | DropColumn | RenameColumn | ChangeType


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
    described: Collection[str] = (),
    settled: bool = False,
    truncated_by: int = 0,
) -> Evolution | CopyAnew:
    """Find out what became of a table.

    Args:
        have: The destination's columns, and the key.
        identity: What the table was when the destination was last made to fit; None where that was not recorded.
        seen: The captured columns as the stream describes them, or as the catalog has them.
        now: The catalog's table, looked up after that; None if it is gone.
        described: Names of all columns as the stream describes them: those that are not captured tell too.
        settled: Whether `now` is neither older nor newer than `seen`. Else storage and versions may tell of a change
            that the stream comes to later, and are kept as they were until then.
        truncated_by: Transaction of the last TRUNCATE of the table in the stream; 0: there was none.
    """
    if identity is None:
        return _without_identity(have, seen, now)
    if now is None:
        names = list(described) if described and identity.hidden else list(seen.names)
        if [c.name for c in _columns(identity, all=bool(described))] == names:
            return Evolution((), identity, seen)
        return CopyAnew("changed and was dropped", SchemaChangeKind.DROP_COLUMN)
    if now.identity.oid != identity.oid:
        return CopyAnew("was dropped and created again", SchemaChangeKind.DROP_COLUMN)
    if now.identity.published != identity.published:
        return CopyAnew("is published anew: changes may be missing, or rows", SchemaChangeKind.DROP_COLUMN)
    rewritten = _rewritten(identity, now, truncated_by) if settled else None
    for found in (_partitions(identity, now), _types(identity, now), rewritten):
        if found is not None:
            return found
    columns = _numbered(identity, seen, now, described, settled=settled)
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


def _types(identity: TableIdentity, now: SourceTable) -> CopyAnew | None:
    """Labels and attributes of types change the text of all rows at once. A label that came behind the others does
    not."""
    after = now.identity.types
    if any(oid in after and after[oid][: len(parts)] != parts for oid, parts in identity.types.items()):
        reason = "has values of an enum whose labels were renamed, or of a composite whose attributes changed"
        return CopyAnew(reason, SchemaChangeKind.CHANGE_TYPE)
    return None


def _rewritten(identity: TableIdentity, now: SourceTable, truncated_by: int) -> CopyAnew | None:
    """What was written while a table was unlogged is not in the stream."""
    if now.identity.storage == identity.storage or not now.storage_tells or now.truncated_by == truncated_by:
        return None
    return CopyAnew("was rewritten: its rows may have changed while it was unlogged", SchemaChangeKind.CHANGE_TYPE)


_ANY = SchemaChangeKind.CHANGE_TYPE


def _columns(identity: TableIdentity, *, all: bool) -> list[SourceColumn]:
    """The captured columns in order, or all of them."""
    left_out = [SourceColumn(c.name, c.number, "") for c in _left_out(identity)] if all else []
    return sorted((*identity.columns, *left_out), key=lambda column: column.number)


def _left_out(identity: TableIdentity) -> list[HiddenColumn]:
    return [column for column in identity.hidden or () if column.mask is None]


def _numbered(
    identity: TableIdentity, seen: TableSchema, now: SourceTable, described: Collection[str], *, settled: bool
) -> list[SourceColumn] | CopyAnew:
    """The columns seen, with the numbers that they have in the catalog."""
    # All columns of the description, as far as it was recorded what they were: their order tells.
    all = bool(described) and identity.hidden is not None
    known_columns, columns_now = _columns(identity, all=all), _columns(now.identity, all=all)
    before = {c.name: c for c in known_columns}
    today = {c.name: c for c in columns_now}
    known = {c.number for c in identity.columns}
    hidden = {c.number for c in _left_out(identity)}
    # Numbers that were given since to columns of which nothing is left.
    vanished = now.identity.top - identity.top - sum(c.number > identity.top for c in columns_now)
    captured = {*seen.names}
    names = described if all else seen.names
    found: list[SourceColumn] = []
    for place, name in enumerate(names):
        column = today.get(name)
        if column is None and name in before and not vanished:
            column = before[name]  # dropped or renamed later
        elif column is None:
            # Renamed or dropped again later. Without any new number it can only be a renamed one.
            if now.identity.top != identity.top or len(names) != len(known_columns):
                return CopyAnew(f"has had a column {quote_identifier(name)} of which nothing is left", _ANY)
            column = replace(known_columns[place], name=name)
        elif not settled and name in before and before[name].number != column.number:
            return CopyAnew(
                f"had column {quote_identifier(name)} dropped and added again", SchemaChangeKind.DROP_COLUMN
            )
        elif name in captured and column.number not in known and column.number <= identity.top:
            return _not_captured(name)
        if name in captured and column.number in hidden:
            return _not_captured(name)
        found.append(column)
    if any(first.number >= second.number for first, second in pairwise(found)):
        return CopyAnew("had columns exchange their names", SchemaChangeKind.RENAME_COLUMN)
    return [column for column in found if column.name in captured]


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
            missing = now.missing.get(column.name)
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
