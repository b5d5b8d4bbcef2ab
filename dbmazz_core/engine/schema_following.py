"""Follow schema changes during a window: change the destination's tables as the source's tables change.

The source explains how a table changed (`Source.explain`). This module applies the policy, orders the changes, and
computes the shape that the destination's table has afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from dbmazz_core.engine.destination_schema import with_destination_columns
from dbmazz_core.errors import SchemaChanged
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.policies import SchemaAction, SchemaChangeKind
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.model.schema_events import (
    AddColumn,
    ChangeType,
    DropColumn,
    NewLabels,
    RenameColumn,
    Reshape,
    Resnapshot,
    SchemaEvent,
    SchemaStep,
)
from dbmazz_core.model.source import Source, SourceTable
from dbmazz_core.model.stream import NewSchema, TableEvent
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.settings.by_table import SchemaPolicy
from dbmazz_core.table_ref import TableRef, quote_identifier

#: An event that a window applies.
WindowEvent: TypeAlias = "TableEvent | SchemaEvent"


@dataclass(slots=True)
class SchemaFollower:
    """Turns descriptions of tables into changes of the destination's tables.

    Attributes:
        source: Explains how tables changed.
        shapes: The destination's tables, as they are after all events that `events` and `finish` have returned.
        policy: The action for each kind of schema change.
        histories: Tables that are kept as changelogs.
        abandoned: Tables that must be re-snapshotted, with the reason. Their events are left out.
        truncated: By truncated table: the transaction of the last TRUNCATE.
    """

    source: Source
    shapes: dict[TableRef, TableShape]
    policy: SchemaPolicy
    histories: Collection[TableRef] = ()
    abandoned: dict[TableRef, str] = field(default_factory=dict)
    truncated: dict[TableRef, int] = field(default_factory=dict)

    def events(self, received: Sequence[TableEvent]) -> list[WindowEvent]:
        """Return the events to apply for events of the stream.

        Raises:
            SchemaChanged: The policy is to stop at a change.
            ConfigError: A redacted column got a name under which the rules do not redact it.
        """
        schemas = [event for event in received if isinstance(event, NewSchema) and event.table not in self.abandoned]
        if len(schemas) > 1:
            self.source.read_ahead(schemas)
        return [event for one in received for event in self._events_of(one)]

    def _events_of(self, event: TableEvent) -> list[WindowEvent]:
        """Return the events to apply for an event of the stream.

        Raises:
            SchemaChanged: The policy is to stop at a change.
            ConfigError: A redacted column got a name under which the rules do not redact it.
        """
        if event.table in self.abandoned:
            return []
        if isinstance(event, NewSchema):
            explained = self.source.explain(self.shapes[event.table], event)
            return self._follow(event.table, explained, event.commit_lsn, event.xid)
        if isinstance(event, ChangeBatch):
            return [with_destination_columns(event, self.shapes[event.table])]
        self.truncated[event.table] = event.position.xid
        return [event]

    def finish(self, tables: Mapping[TableRef, SourceTable]) -> list[WindowEvent]:
        """Return the events to apply after all events up to the window's bound.

        They are schema changes that no row change followed, and changes of keys.

        Args:
            tables: The tables as they are at the bound.
        """
        found: list[WindowEvent] = []
        for table, now in tables.items():
            if table not in self.shapes or table in self.abandoned:
                continue
            known = self.shapes[table]
            explained = self.source.explain(known, now, truncated_by=self.truncated.get(table, 0))
            found += self._follow(table, explained, Lsn(0), 0)
            if table not in self.abandoned and isinstance(explained, Reshape):
                found += self._key(table, explained)
        return found

    def _follow(self, table: TableRef, explained: Reshape | Resnapshot, commit_lsn: Lsn, xid: int) -> list[WindowEvent]:
        """Return the event for an explained change, under the policy; nothing if the shape stays the same."""
        known = self.shapes[table]
        if isinstance(explained, Resnapshot):
            return self._abandon(table, explained, commit_lsn, xid)
        chosen = self._chosen(known.schema, explained.steps, commit_lsn, xid)
        shape = reshaped(known, explained, chosen)
        if table in self.histories:
            key, lost = _found_by(explained.seen, shape), {*known.schema.key} & {*_dropped(chosen)}
            if lost or {*key} != {*shape.schema.key}:
                return self._abandon(table, _other_key(key), commit_lsn, xid)
        self.shapes[table] = shape
        labels = self._with_policy(table, explained.labels)
        return [] if shape == known else [SchemaEvent(table, chosen, shape, None, commit_lsn, xid, labels)]

    def _key(self, table: TableRef, explained: Reshape) -> list[WindowEvent]:
        """Return the event after which rows are found by today's key; nothing if the key is the same."""
        known = self.shapes[table]
        if explained.token_by_key is None:
            return []
        key = _found_by(explained.seen, known)
        same = (key, explained.token_by_key) == (known.schema.key, known.token)
        if same or not {*known.schema.names}.issuperset(key):
            return []
        shape = replace(known, schema=replace(known.schema, key=key), token=explained.token_by_key)
        self.shapes[table] = shape
        return [SchemaEvent(table, (), shape, None, Lsn(0), 0)]

    def _with_policy(self, table: TableRef, labels: Sequence[NewLabels]) -> tuple[NewLabels, ...]:
        """Return new labels of enums with the policy for the case that values leave doubt."""
        stop = self.policy.of(table, SchemaChangeKind.CHANGE_TYPE) is SchemaAction.STOP
        return tuple(replace(some, stop=stop) for some in labels)

    def _abandon(self, table: TableRef, why: Resnapshot, commit_lsn: Lsn, xid: int) -> list[WindowEvent]:
        """Leave out the table's events from here on; return the event that records the re-snapshot."""
        if self.policy.of(table, why.kind) is SchemaAction.STOP:
            raise stopped(table, why.reason, commit_lsn, xid)
        self.abandoned[table] = why.reason
        return [SchemaEvent(table, (), self.shapes[table], why.reason, commit_lsn, xid)]

    def _chosen(
        self, have: TableSchema, steps: Sequence[SchemaStep], commit_lsn: Lsn, xid: int
    ) -> tuple[tuple[SchemaStep, SchemaAction], ...]:
        """Return the steps with the action that the policy chooses for each step."""
        chosen: list[tuple[SchemaStep, SchemaAction]] = []
        for step in steps:
            action = self.policy.of(have.table, step.kind)
            if action is SchemaAction.STOP:
                raise stopped(have.table, str(step), commit_lsn, xid)
            in_key = isinstance(step, DropColumn) and (step.name in have.key or not have.key)
            # No policy can ignore a dropped key column: without it, rows cannot be found.
            chosen.append((step, SchemaAction.APPLY if in_key else action))
        return tuple(chosen)


def _found_by(seen: TableSchema, shape: TableShape) -> tuple[str, ...]:
    """Return the destination's columns by which rows are found; empty for a column that it does not have."""
    return tuple(shape.targets.get(name) or "" for name in seen.key)


def _dropped(chosen: Sequence[tuple[SchemaStep, SchemaAction]]) -> list[str]:
    """Return the destination's columns that the chosen steps drop."""
    return [step.name for step, action in chosen if isinstance(step, DropColumn) and action is SchemaAction.APPLY]


def _other_key(key: Collection[str]) -> Resnapshot:
    """Return why a changelog is re-snapshotted when its key changes.

    A changelog does not record by which columns a change finds its row. After a copy at the schema change, the same key
    applies to all changes behind the copy.
    """
    names = ", ".join(sorted(quote_identifier(name) for name in key if name))
    return Resnapshot(f"has its rows found by {names or 'all columns'} from here on", SchemaChangeKind.CHANGE_TYPE)


def reshaped(known: TableShape, explained: Reshape, chosen: Sequence[tuple[SchemaStep, SchemaAction]]) -> TableShape:
    """Return the destination's table after the chosen steps.

    Args:
        known: The destination's table before them.
        explained: How the source's table changed.
        chosen: Its steps, each with the policy's action.
    """
    columns: list[ColumnDef] = list(known.schema.columns)
    targets = dict(explained.targets)
    renamed: dict[str, str] = {}
    added: list[ColumnDef] = []
    for step, action in chosen:
        apply = action is SchemaAction.APPLY
        match step:
            case AddColumn(column):
                added.append(column)
                if not apply:
                    targets[column.name] = None
            case DropColumn(name) if apply:
                columns = [c for c in columns if c.name != name]
            case RenameColumn(old, new) if apply:
                renamed[old] = new
            case ChangeType(_, old_definition, new) if apply:
                columns = [replace(new, name=c.name) if c.name == old_definition.name else c for c in columns]
    columns = [replace(c, name=renamed.get(c.name, c.name)) for c in columns]
    columns += [column for column in added if targets[column.name] is not None]
    new_names = {column.name for column in added}
    targets = {
        source: target if source in new_names or target is None else renamed.get(target, target)
        for source, target in targets.items()
    }
    key: tuple[str, ...] = tuple(renamed.get(name, name) for name in known.schema.key)
    names = {column.name for column in columns}
    if not names.issuperset(key):
        # The key moved to other columns before one of its columns was dropped. The recorded key follows such a move
        # only at the end of a window, and must not name a column that is gone.
        key = tuple(targets[name] or "" for name in explained.seen.key)
        key = key if names.issuperset(key) else ()
    schema = replace(known.schema, columns=_with_source_types(columns, explained.seen), key=key)
    return TableShape(schema, targets, explained.token)


def _with_source_types(columns: Sequence[ColumnDef], seen: TableSchema) -> tuple[ColumnDef, ...]:
    """Return the columns with the source's names of their types, which may change although our types do not."""
    definitions = {column.name: column for column in seen.columns}
    return tuple(
        replace(column, source_type=definitions[column.name].source_type)
        if column.name in definitions and definitions[column.name].type == column.type
        else column
        for column in columns
    )


def stopped(table: TableRef, what: str, commit_lsn: Lsn, xid: int) -> SchemaChanged:
    """Return the error for a change at which the policy is to stop."""
    where = f" (transaction {xid}, committed at {commit_lsn})" if xid else ""
    return SchemaChanged(
        f"{table} changed at the source: {what}{where}; nothing of this flush was applied to the table",
        object=table,
        remedy=f"re-snapshot the table: dbmazz snapshot --tables '{table}'; or let the destination follow: "
        "SCHEMA_CHANGES=apply",
    )
