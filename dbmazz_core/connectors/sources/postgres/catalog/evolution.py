"""Compare a table with its recorded identity: schema steps that the destination can take in place, or a re-snapshot.

The stream describes a table by the names and types of its columns, before the first row after a change. The catalog has
the numbers of columns, but it shows the current state, which may include changes that the stream reports later. Where
stream and catalog together prove the changes, the destination takes the same steps. Otherwise the table is
re-snapshotted, which is correct whatever changed.

PostgreSQL guarantees these facts:

- A column keeps its number when it is renamed, and a new column gets a number above all earlier ones. `column_numbers`
  finds the numbers that a description means, or finds that they are unknown.
- With the same storage, no value was rewritten. Then a changed type changed in name only, and rows older than a column
  have the value that the catalog keeps for them (`attmissingval`), or NULL.
- With other storage but the same versions of all columns, the command was TRUNCATE (which the stream reports), VACUUM
  FULL or similar: the values are the same. If it may have been a command that the stream does not report
  (`CatalogTable.unreported_rewrites`), the last TRUNCATE in the stream must be the one that created the storage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.column_numbers import Candidate, possible_numbers
from dbmazz_core.connectors.sources.postgres.catalog.identity import SourceColumn, TableIdentity
from dbmazz_core.connectors.sources.postgres.catalog.labels import changed_types, new_labels_in_key
from dbmazz_core.connectors.sources.postgres.catalog.redaction import merge_redacted
from dbmazz_core.connectors.sources.postgres.catalog.relation_description import DescribedColumn
from dbmazz_core.connectors.sources.postgres.catalog.type_changes import converts_in_destination, has_same_text
from dbmazz_core.model.policies import SchemaChangeKind
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.model.schema_events import AddColumn, ChangeType, DropColumn, RenameColumn, Resnapshot, SchemaStep
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.table_ref import quote_identifier

#: The kind to report if the kind of a change is not known; the policy for changes of type applies.
_UNKNOWN_CHANGE = SchemaChangeKind.CHANGE_TYPE
#: Reads the layouts of existing types by OID (`CatalogTable.layouts`).
Layouts = Callable[[Collection[int]], Mapping[int, str]]


@dataclass(frozen=True, slots=True)
class Evolution:
    """Changes of a table that the destination can take in place.

    Attributes:
        steps: Changes of the destination's columns, in this order; empty if only the identity changed.
        identity: Identity of the table after the steps.
        seen: The source's captured columns after the steps.
        targets: By name of a captured column: the destination's column, by its name before the steps.
    """

    steps: tuple[SchemaStep, ...]
    identity: TableIdentity
    seen: TableSchema
    targets: Mapping[str, str | None]


@dataclass(frozen=True)  # without slots, for the cached properties
class Comparison:
    """Compares a table with its recorded identity.

    A comparison is made in the middle of the stream, with a description that the stream has sent, or at the bound, with
    the catalog as it is at the stream's upper LSN (`at_bound`). In the middle of the stream the catalog may be newer
    than the description. The facts count as follows:

    | fact                           | in the middle of the stream             | at the bound                          |
    |--------------------------------|-----------------------------------------|---------------------------------------|
    | captured columns               | those described; numbers are inferred   | those of the catalog                  |
    | OID, publication, partitions   | other: re-snapshot                      | other: re-snapshot                    |
    | labels, attributes that the    | other: re-snapshot                      | other: re-snapshot                    |
    | identity has                   |                                         |                                       |
    | new labels                     | in the key: re-snapshot                 | reported by `explanation`             |
    | storage, and a column that is  | other: re-snapshot                      | other: re-snapshot                    |
    | new or was altered             |                                         |                                       |
    | storage alone                  | ignored: the stream may still report a  | other: re-snapshot, if the rewrite    |
    |                                | TRUNCATE                                | may be unreported                     |

    The identity to record after the comparison:

    | fact                           | in the middle of the stream             | at the bound                          |
    |--------------------------------|-----------------------------------------|---------------------------------------|
    | versions of columns            | recorded ones; empty for a new column   | those of the catalog                  |
    | storage, partitions, types,    | recorded ones: the stream may still     | those of the catalog                  |
    | unpublished columns            | report the change                       |                                       |
    | highest number                 | the highest recorded or described       | that of the catalog                   |
    | redacted columns               | those of the catalog, and recorded ones | those of the catalog                  |
    | key's index                    | recorded one                            | recorded one (`explanation` sets it)  |

    Attributes:
        known: Shape of the destination's table.
        identity: The recorded identity, which belongs to `known`.
        seen: The captured columns: as the stream describes them, or at the bound as the catalog has them.
        now: The catalog's table, read after the description was received; at the bound, the table at the upper LSN.
        described: All columns as the stream describes them, captured or not; empty at the bound.
        at_bound: Whether the comparison is made at the bound.
    """

    known: TableShape
    identity: TableIdentity
    seen: TableSchema
    now: CatalogTable
    described: Sequence[DescribedColumn] = ()
    at_bound: bool = False

    @property
    def same_storage(self) -> bool:
        """Whether the table has the recorded storage, so that no value was rewritten."""
        return self.now.identity.storage == self.identity.storage

    def evolution(self, layouts: Layouts, last_truncate: int) -> Evolution | Resnapshot:
        """Return the changes of the table since its identity was recorded.

        Args:
            layouts: Reads the layouts of types.
            last_truncate: Transaction of the last TRUNCATE of the table in the stream; 0: there was none.
        """
        problem = (
            self._table_change()
            or self._partition_change()
            or self._unreported_rewrite(last_truncate)
            or self._type_change()
        )
        columns = problem or self._columns(layouts)
        return columns if isinstance(columns, Resnapshot) else self._steps(columns)

    def _table_change(self) -> Resnapshot | None:
        """Return a re-snapshot if the table is another table, or is published in another way."""
        if self.now.identity.oid != self.identity.oid:
            return Resnapshot("was dropped and created again", SchemaChangeKind.DROP_COLUMN)
        if self.now.identity.published != self.identity.published:
            why = "is published in another way, or was unpublished for a while: changes or rows may be missing"
            return Resnapshot(why, SchemaChangeKind.DROP_COLUMN)
        return None

    def _partition_change(self) -> Resnapshot | None:
        """Return a re-snapshot if partitions were attached, detached, dropped or truncated.

        The stream reports none of these, and does not send the rows that come or go.
        """
        before, after = self.identity.partitions, self.now.identity.partitions
        if before == after:
            return None
        if gone := [oid for oid in before if oid not in after]:
            return Resnapshot(f"lost {len(gone)} of its partitions", SchemaChangeKind.DROP_COLUMN)
        if any(after[oid] != storage for oid, storage in before.items()):
            return Resnapshot("had a partition truncated, rewritten, or detached for a while", _UNKNOWN_CHANGE)
        if any(oid not in before and oid not in self.now.created_partitions for oid in after):
            return Resnapshot("had a table attached as a partition", SchemaChangeKind.ADD_COLUMN)
        return None

    def _unreported_rewrite(self, last_truncate: int) -> Resnapshot | None:
        """Return a re-snapshot if the table has new storage, and rows may have changed without a message in the stream.

        Changes that are made while a table is unlogged are not in the stream.
        """
        reported = not self.now.unreported_rewrites or self.now.truncate_xid == last_truncate
        if not self.at_bound or self.same_storage or reported:
            return None
        return Resnapshot("was rewritten: its rows may have changed while it was unlogged", _UNKNOWN_CHANGE)

    def _type_change(self) -> Resnapshot | None:
        """Return a re-snapshot if labels of enums or attributes of composites changed."""
        reason = changed_types(self.identity, self.now)
        if reason is None and not self.at_bound:
            reason = new_labels_in_key(self.identity, self.seen, self.now)
        return None if reason is None else Resnapshot(reason, _UNKNOWN_CHANGE)

    # -- the numbers of the captured columns

    def _columns(self, layouts: Layouts) -> list[SourceColumn] | Resnapshot:
        """Return the captured columns with their numbers, and the names that they have in `seen`."""
        columns: list[SourceColumn] | Resnapshot
        if self.at_bound:
            columns = list(self.now.identity.columns)
        elif self.identity.redacted is None:  # recorded by an older version, without the columns that rules exclude
            columns = self._numbered([c for c in self.described if c.name in {*self.seen.names}], layouts)
        else:
            columns = self._numbered(self.described, layouts)
        return columns if isinstance(columns, Resnapshot) else self._captured(columns)

    def _numbered(self, described: Sequence[DescribedColumn], layouts: Layouts) -> list[SourceColumn] | Resnapshot:
        """Return the described columns, captured or not, with their numbers."""
        candidates = self._candidates()
        choices = possible_numbers(candidates, [(column.name, "") for column in described])
        if len(choices) > 1:
            layout_of = layouts([column.type_oid for column in described])
            with_layouts = [(column.name, layout_of.get(column.type_oid, "")) for column in described]
            choices = possible_numbers(candidates, with_layouts)
        if len(choices) != 1:
            what = "had columns added, dropped or renamed so that its columns in the stream cannot be identified"
            return Resnapshot(what, _UNKNOWN_CHANGE)
        before = {c.number: c for c in self.identity.columns}
        return [
            SourceColumn(column.name, number, before[number].version if number in before else "")
            for number, column in zip(choices[0], described, strict=True)
        ]

    def _candidates(self) -> list[Candidate]:
        """Return the columns that a description can contain, by ascending number."""
        identity, now = self.identity, self.now
        before, today = {c.number: c for c in identity.columns}, {c.number: c for c in now.identity.columns}
        streamed_before, streamed_today = {*identity.streamed}, {*now.identity.streamed}
        # Columns that neither read of the catalog shows in the stream, but that may have been there in between: columns
        # with a number given since, and columns that were unpublished before, unless the catalog has them unpublished.
        between = {*range(identity.max_attnum + 1, now.identity.max_attnum + 1), *identity.unpublished}
        between -= {*now.identity.unpublished}

        def candidate(number: int) -> Candidate:
            old, new = before.get(number), today.get(number)
            unaltered = old is not None and new is not None and old.version == new.version
            return Candidate(
                number,
                old.name if old is not None and unaltered else None,
                now.layouts.get(number, "") if self.same_storage else "",
                always_exists=number in streamed_before and number in streamed_today,
                exists_now=number > identity.max_attnum and number in streamed_today,
            )

        return [candidate(number) for number in sorted(streamed_before | streamed_today | between)]

    def _captured(self, columns: Sequence[SourceColumn]) -> list[SourceColumn] | Resnapshot:
        """Return the captured columns among `columns`; a re-snapshot if one is neither recorded nor new."""
        identity = self.identity
        known, excluded = {c.number for c in identity.columns}, {c.number for c in identity.excluded}
        today = {*self.now.identity.streamed}
        captured = [column for column in columns if column.name in {*self.seen.names}]
        for column in captured:
            name = quote_identifier(column.name)
            if column.number in excluded or (column.number not in known and column.number <= identity.max_attnum):
                return Resnapshot(f"has column {name}, which was not captured before", SchemaChangeKind.ADD_COLUMN)
            if column.number not in known and column.number not in today:
                what = f"had a column {name} that was dropped since, and the catalog has nothing of it"
                return Resnapshot(what, SchemaChangeKind.ADD_COLUMN)
        return captured

    # -- steps

    def _steps(self, columns: Sequence[SourceColumn]) -> Evolution | Resnapshot:
        """Return the steps from the recorded columns to `columns`, which match `seen` in order."""
        steps = self._dropped({c.number for c in columns})
        if isinstance(steps, Resnapshot):
            return steps
        before = {c.number: c for c in self.identity.columns}
        recorded: list[SourceColumn] = []
        targets: dict[str, str | None] = {}
        for column, definition in zip(columns, self.seen.columns, strict=True):
            old = before.get(column.number)
            if old is None:
                added = self._added(column, definition)
                if isinstance(added, Resnapshot):
                    return added
                steps.append(added)
                recorded.append(column)
                targets[column.name] = definition.name
                continue
            altered = self._altered(old, definition)
            if isinstance(altered, Resnapshot):
                return altered
            steps += altered
            version = self._version(old) if self.at_bound else old.version
            recorded.append(SourceColumn(definition.name, column.number, version))
            targets[definition.name] = self.known.targets[old.name]
        return Evolution(tuple(steps), self._identity_with(tuple(recorded)), self.seen, targets)

    def _dropped(self, numbers: Collection[int]) -> list[SchemaStep] | Resnapshot:
        """Return the steps for recorded columns that are not among `numbers`."""
        today, steps = {c.number for c in self.now.identity.columns}, list[SchemaStep]()
        for old in self.identity.columns:
            if old.number in numbers:
                continue
            if old.number in today:
                what = f"was published for a while without column {quote_identifier(old.name)}"
                return Resnapshot(what, _UNKNOWN_CHANGE)
            target = self.known.targets[old.name]
            if target is not None:
                steps.append(DropColumn(target))
        return steps

    def _added(self, column: SourceColumn, definition: ColumnDef) -> AddColumn | Resnapshot:
        """Return the step for a new column, with the value that older rows have."""
        name = quote_identifier(column.name)
        if not self.same_storage:
            return Resnapshot(f"got column {name} and was rewritten", SchemaChangeKind.ADD_COLUMN)
        today = {c.number: d for c, d in zip(self.now.identity.columns, self.now.schema.columns, strict=True)}
        latest = today.get(column.number)
        if latest is None or (latest.type, latest.mask) != (definition.type, definition.mask):
            what = f"got column {name}, whose type or mask was changed since: its value in older rows is not known"
            return Resnapshot(what, SchemaChangeKind.ADD_COLUMN)
        missing = self.now.missing_values.get(column.number)
        if missing is not None and missing[0] is None:
            return Resnapshot.for_default(definition.name)
        return AddColumn(definition, missing)

    def _altered(self, old: SourceColumn, definition: ColumnDef) -> list[SchemaStep] | Resnapshot:
        """Return the steps for a recorded column."""
        version, name = self._version(old), quote_identifier(definition.name)
        if not self.same_storage and version != old.version:
            return Resnapshot(f"was rewritten when column {quote_identifier(definition.name)} changed", _UNKNOWN_CHANGE)
        target = self.known.targets[old.name]
        if target is None:
            return []
        old_definition = self._known_columns[target]
        if old_definition.mask != definition.mask:
            return Resnapshot(f"has column {name} under another mask", _UNKNOWN_CHANGE)
        steps: list[SchemaStep] = []
        # A column that has an older name in the destination keeps it.
        if target == old.name != definition.name:
            steps.append(RenameColumn(target, definition.name))
        altered = version != old.version
        if old_definition.type != definition.type or (altered and not has_same_text(old_definition, definition)):
            if not converts_in_destination(old_definition.type, definition.type):
                types = f"as {definition.source_type}, which was {old_definition.source_type}"
                return Resnapshot(f"has column {name} {types}", _UNKNOWN_CHANGE)
            steps.append(ChangeType(definition.name, old_definition, definition))
        return steps

    def _version(self, old: SourceColumn) -> str:
        """Return the version that a recorded column has in the catalog; the recorded version if it was dropped."""
        return self._current_versions.get(old.number, old.version)

    @functools.cached_property
    def _current_versions(self) -> dict[int, str]:
        """The versions of the catalog's captured columns, by number."""
        return {column.number: column.version for column in self.now.identity.columns}

    @functools.cached_property
    def _known_columns(self) -> dict[str, ColumnDef]:
        """The destination's columns, by name."""
        return {column.name: column for column in self.known.schema.columns}

    def _identity_with(self, columns: tuple[SourceColumn, ...]) -> TableIdentity:
        """Return the identity to record with these captured columns, see the second table of this class."""
        identity, today = self.identity, self.now.identity
        redacted = merge_redacted(identity.redacted, today.redacted, at_bound=self.at_bound)
        if not self.at_bound:
            max_attnum = max([identity.max_attnum, *(column.number for column in columns)])
            return replace(identity, max_attnum=max_attnum, columns=columns, redacted=redacted)
        return replace(
            identity,
            storage=today.storage,
            partitions=today.partitions,
            max_attnum=today.max_attnum,
            columns=columns,
            types=today.types,
            type_versions=today.type_versions,
            unpublished=today.unpublished,
            redacted=redacted,
        )


def compare_dropped_table(
    known: TableShape, identity: TableIdentity, seen: TableSchema, described: Sequence[DescribedColumn]
) -> Evolution | Resnapshot:
    """Return the changes of a table that the catalog no longer has.

    Args:
        known: Shape of the destination's table.
        identity: The recorded identity.
        seen: The captured columns as the stream describes them.
        described: All columns as the stream describes them.
    """
    recorded = sorted((c.number, c.name) for columns in (identity.columns, identity.excluded) for c in columns)
    if [name for _, name in recorded] == [column.name for column in described]:
        return Evolution((), identity, seen, known.targets)
    return Resnapshot("changed and was dropped", SchemaChangeKind.DROP_COLUMN)


def compare_without_identity(known: TableShape, seen: TableSchema, now: CatalogTable | None) -> Evolution | Resnapshot:
    """Return the changes of a table that an older version has copied without recording its identity.

    Args:
        known: Shape of the destination's table.
        seen: The captured columns as the stream describes them, or as the catalog has them.
        now: The catalog's table; None: it was dropped.
    """
    same = [(c.name, c.type) for c in known.schema.columns] == [(c.name, c.type) for c in seen.columns]
    if same and now is not None and now.schema.names == seen.names:
        return Evolution((), now.identity, seen, TableShape.of(seen, None).targets)
    return Resnapshot(
        "changed, and was copied by a version of dbmazz that did not record its identity", _UNKNOWN_CHANGE
    )
