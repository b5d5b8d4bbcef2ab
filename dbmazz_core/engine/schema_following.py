"""Keeping the destination's tables in the source's shape while a window runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dbmazz_core.connectors.sources.postgres.catalog.evolution import CopyAnew, Evolution, Layouts, compare
from dbmazz_core.connectors.sources.postgres.catalog.identity import (
    SourceColumn,
    SourceTable,
    TableIdentity,
    verify_still_hidden,
)
from dbmazz_core.connectors.sources.postgres.catalog.labels import new_labels
from dbmazz_core.engine.destination_schema import conform
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
    SchemaEvent,
    SchemaStep,
)
from dbmazz_core.model.source import DescribedColumn, NewSchema, TableEvent, Truncation
from dbmazz_core.settings.by_table import SchemaPolicy
from dbmazz_core.table_ref import TableRef, quote_identifier

#: What a window applies.
WindowEvent = TableEvent | SchemaEvent


@dataclass(slots=True)
class SchemaFollower:
    """Turns what the stream and the catalog say of tables into what the destination has to do.

    Attributes:
        schemas: The destination's tables, as they are behind the events that went through here.
        identities: What the source's tables are, likewise; tables without one were copied by an older version.
        describe: Looks a table up in the source's catalog, by OID.
        layouts: Tells the layouts of types, see `compare`.
        policy: What is done about changes.
        histories: Tables that are kept as changelogs.
        abandoned: Tables that have to be copied anew, and why: their events are left out.
        truncated: Tables that were truncated, and by which transaction last.
    """

    schemas: dict[TableRef, TableSchema]
    identities: dict[TableRef, TableIdentity]
    describe: Callable[[int], SourceTable | None]
    layouts: Layouts
    policy: SchemaPolicy
    histories: Collection[TableRef] = ()
    abandoned: dict[TableRef, str] = field(default_factory=dict)
    truncated: dict[TableRef, int] = field(default_factory=dict)

    def events(self, event: TableEvent) -> list[WindowEvent]:
        """What to apply for an event of the stream.

        Raises:
            SchemaChanged: If the policy says so.
            ConfigError: If a column that is hidden has got a name that is not.
        """
        if event.table in self.abandoned:
            return []
        if isinstance(event, NewSchema):
            if event.root is not None:
                why = f"was a partition of {event.root} for a while, with its changes under that name"
                other = CopyAnew(why, SchemaChangeKind.DROP_COLUMN)
                return self._copy_anew(event.table, other, event.commit_lsn, event.xid)
            now = self.describe(event.relation)
            if event.partition and now is not None and (told := _partition_tells(event, now)) is not None:
                return self._copy_anew(event.table, told, event.commit_lsn, event.xid)
            if event.key_in_doubt and now is not None and now.identity.partitions:
                what = (
                    "has had another key, or its columns renamed, and partitions whose rows may be sent by the key only"
                )
                return self._copy_anew(
                    event.table, CopyAnew(what, SchemaChangeKind.CHANGE_TYPE), event.commit_lsn, event.xid
                )
            return self._compared(event.schema, now, event.commit_lsn, event.xid, described=event.described)
        if isinstance(event, ChangeBatch) and event.table in self.identities:
            return [conform(event, self.schemas[event.table], self.identities[event.table])]
        if isinstance(event, Truncation):
            self.truncated[event.table] = event.position.xid
        return [event]

    def finish(self, catalog: Mapping[TableRef, SourceTable]) -> list[WindowEvent]:
        """What is left to do once everything up to the window's bound is in: changes that no row came after, and keys.

        Args:
            catalog: As it was at the bound.
        """
        found: list[WindowEvent] = []
        for table, now in catalog.items():
            if table not in self.schemas or table in self.abandoned:
                continue
            found += self._compared(replace(now.schema, table=table), now, Lsn(0), 0, settled=True)
            if table not in self.abandoned:
                found += self._key(table, now)
        return found

    def _key(self, table: TableRef, now: SourceTable) -> list[WindowEvent]:
        """Rows that come from here on are found by the key of today."""
        have, identity = self.schemas[table], self.identities.get(table)
        if identity is None or identity.oid != now.identity.oid:
            return []
        key = _found_by(now.schema, identity)
        if (key, now.identity.key_index) == (have.key, identity.key_index) or not {*have.names}.issuperset(key):
            return []
        schema, after = replace(have, key=key), replace(identity, key_index=now.identity.key_index)
        self.schemas[table], self.identities[table] = schema, after
        return [SchemaEvent(table, (), schema, after, None, Lsn(0), 0)]

    def _compared(
        self,
        seen: TableSchema,
        now: SourceTable | None,
        commit_lsn: Lsn,
        xid: int,
        *,
        described: Sequence[DescribedColumn] = (),
        settled: bool = False,
    ) -> list[WindowEvent]:
        table, have = seen.table, self.schemas[seen.table]
        identity = self.identities.get(table)
        if identity is not None and now is not None:
            verify_still_hidden(table, identity, now)
        result = compare(
            have,
            identity,
            seen,
            now,
            described=described,
            layouts=self.layouts,
            settled=settled,
            truncated_by=self.truncated.get(table, 0),
        )
        labels: tuple[NewLabels, ...] = ()
        if settled and identity is not None and now is not None and isinstance(result, Evolution):
            found = self._new_labels(identity, now)
            result, labels = (found, ()) if isinstance(found, CopyAnew) else (result, found)
        if isinstance(result, CopyAnew):
            return self._copy_anew(table, result, commit_lsn, xid)
        chosen = self._chosen(have, result, commit_lsn, xid)
        schema, after = _shaped(have, result, chosen)
        if table in self.histories and {*(key := _found_by(seen, after))} != {*schema.key}:
            return self._copy_anew(table, _other_key(key), commit_lsn, xid)
        self.schemas[table], self.identities[table] = schema, after
        if identity == after and schema == have:
            return []
        return [SchemaEvent(table, chosen, schema, after, None, commit_lsn, xid, labels)]

    def _new_labels(self, identity: TableIdentity, now: SourceTable) -> tuple[NewLabels, ...] | CopyAnew:
        """Labels that enums of a table got, by the destination's columns that hold them."""
        targets, found = {c.number: c.target for c in identity.columns}, []
        for oid, new in new_labels(identity, now).items():
            for column in now.enums[oid]:
                if not column.plain:
                    what = "has an enum in a composite, a range, a text or under a mask that got a label"
                    return CopyAnew(what, SchemaChangeKind.CHANGE_TYPE)
                target = targets.get(column.number)
                if target is not None:
                    stop = self.policy.of(now.table, SchemaChangeKind.CHANGE_TYPE) is SchemaAction.STOP
                    known = now.identity.types[oid][: -len(new)]
                    found.append(NewLabels(target, known, new, stop))
        return tuple(found)

    def _copy_anew(self, table: TableRef, why: CopyAnew, commit_lsn: Lsn, xid: int) -> list[WindowEvent]:
        if self.policy.of(table, why.kind) is SchemaAction.STOP:
            raise stopped(table, why.reason, commit_lsn, xid)
        self.abandoned[table] = why.reason
        have, identity = self.schemas[table], self.identities.get(table)
        return [SchemaEvent(table, (), have, identity, why.reason, commit_lsn, xid)]

    def _chosen(
        self, have: TableSchema, evolution: Evolution, commit_lsn: Lsn, xid: int
    ) -> tuple[tuple[SchemaStep, SchemaAction], ...]:
        chosen: list[tuple[SchemaStep, SchemaAction]] = []
        for step in evolution.steps:
            action = self.policy.of(have.table, step.kind)
            if action is SchemaAction.STOP:
                raise stopped(have.table, str(step), commit_lsn, xid)
            in_key = isinstance(step, DropColumn) and (step.name in have.key or not have.key)
            # Without it rows could not be found any more.
            chosen.append((step, SchemaAction.APPLY if in_key else action))
        return tuple(chosen)


def _partition_tells(event: NewSchema, now: SourceTable) -> CopyAnew | None:
    """Whether a partition that shows up here for the first time had rows that went, or that never came.

    TRUNCATE of a partition is not in the stream. It leaves no trace in the (sub)transaction that created the partition,
    so rows of that one prove nothing. A subtransaction has a higher id than its transaction (xact.c,
    AssignTransactionId), so one with a lower id is another transaction, and committed before it was used.
    """
    if event.partition not in now.identity.partitions:
        return CopyAnew("had a partition for a while, and lost its rows with it", SchemaChangeKind.DROP_COLUMN)
    created_by = now.empty_partitions.get(event.partition)
    if created_by is not None and not is_older(created_by, event.xid):
        what = "got rows of a partition from the transaction that created it, which may have truncated it as well"
        return CopyAnew(what, SchemaChangeKind.ADD_COLUMN)
    return None


def is_older(xid: int, than: int) -> bool:
    """Whether a transaction id was given before another one (transam.c, TransactionIdPrecedes): they go round, and
    those below 3, of a frozen row for example, are older than all."""
    return xid < 3 <= than or (xid >= 3 and 0 < (than - xid) % (1 << 32) < 1 << 31)


def _found_by(seen: TableSchema, identity: TableIdentity) -> tuple[str, ...]:
    """The destination's columns by which rows are found from here on; empty for one that it does not have."""
    targets = {column.name: column.target for column in identity.columns}
    return tuple(targets.get(name) or "" for name in seen.key)


def _other_key(key: Collection[str]) -> CopyAnew:
    """A changelog does not say by which columns a change finds its row; with a copy at the change, one key holds for
    all that comes behind it."""
    names = ", ".join(sorted(quote_identifier(name) for name in key if name))
    return CopyAnew(f"has its rows found by {names or 'all columns'} from here on", SchemaChangeKind.CHANGE_TYPE)


def _shaped(
    have: TableSchema,
    evolution: Evolution,
    chosen: tuple[tuple[SchemaStep, SchemaAction], ...],
) -> tuple[TableSchema, TableIdentity]:
    """The destination's columns after the steps, and where each of the source's goes."""
    columns: list[ColumnDef] = list(have.columns)
    targets = {c.name: c.target for c in evolution.identity.columns}
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
            case ChangeType(name, old_definition, new) if apply:
                columns = [replace(new, name=c.name) if c.name == old_definition.name else c for c in columns]
    columns = [replace(c, name=renamed.get(c.name, c.name)) for c in columns]
    columns += [column for column in added if targets[column.name] is not None]
    came = {column.name for column in added}
    definitions = {c.name: c for c in evolution.seen.columns}
    # The source's own name of a type may change where ours does not.
    columns = [
        replace(c, source_type=definitions[c.name].source_type)
        if c.name in definitions and definitions[c.name].type == c.type
        else c
        for c in columns
    ]
    moved: list[SourceColumn] = []
    for source in evolution.identity.columns:
        target = targets[source.name]
        if source.name in came:
            moved.append(replace(source, target=target))
            continue
        moved.append(replace(source, target=None if target is None else renamed.get(target, target)))
    schema = replace(have, columns=tuple(columns), key=tuple(renamed.get(name, name) for name in have.key))
    return schema, replace(evolution.identity, columns=tuple(moved))


def stopped(table: TableRef, what: str, commit_lsn: Lsn, xid: int) -> SchemaChanged:
    """The error where the policy is to stop at a change."""
    where = f" (transaction {xid}, committed at {commit_lsn})" if xid else ""
    return SchemaChanged(
        f"{table} changed in PostgreSQL: {what}{where}; nothing of this flush was applied",
        object=str(table),
        remedy=f"copy the table anew: dbmazz snapshot --tables '{table}'; or have it follow: SCHEMA_CHANGES=apply",
    )
