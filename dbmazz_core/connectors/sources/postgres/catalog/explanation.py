"""Explain how a table changed since the destination recorded its shape (`PostgresSource.explain`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.evolution import (
    Comparison,
    Evolution,
    Layouts,
    compare_dropped_table,
    compare_without_identity,
)
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.connectors.sources.postgres.catalog.labels import new_labels
from dbmazz_core.connectors.sources.postgres.catalog.redaction_checks import verify_still_redacted
from dbmazz_core.connectors.sources.postgres.catalog.relation_description import RelationDescription
from dbmazz_core.model.policies import SchemaChangeKind
from dbmazz_core.model.schema_events import NewLabels, Reshape, Resnapshot
from dbmazz_core.model.source import SourceTable
from dbmazz_core.model.stream import NewSchema
from dbmazz_core.model.table_shape import TableShape


def explain(
    known: TableShape,
    seen: NewSchema | SourceTable,
    catalog_table: Callable[[int], CatalogTable | None],
    layouts: Layouts,
    *,
    last_truncate: int,
) -> Reshape | Resnapshot:
    """Explain how a table changed since its shape was recorded.

    Args:
        known: Shape of the destination's table.
        seen: The table as the stream describes it, or as the catalog has it at the bound.
        catalog_table: Reads a table by its OID; None: the table does not exist, or cannot be captured.
        layouts: See `Comparison.evolution`.
        last_truncate: Transaction of the last TRUNCATE of the table in the stream; 0: there was none.

    Raises:
        ConfigError: A column that was redacted has a new name under which the rules show it.
    """
    if isinstance(seen, NewSchema):
        return _explain_description(known, seen, catalog_table, layouts)
    assert isinstance(seen, CatalogTable)
    return _explain_at_bound(known, seen, last_truncate)


def _explain_description(
    known: TableShape, seen: NewSchema, catalog_table: Callable[[int], CatalogTable | None], layouts: Layouts
) -> Reshape | Resnapshot:
    """Explain a table that the stream describes before one of its changes."""
    described = seen.description
    assert isinstance(described, RelationDescription)
    if described.root is not None:
        why = f"was a partition of {described.root} for a while, with its changes under that name"
        return Resnapshot(why, SchemaChangeKind.DROP_COLUMN)
    now = catalog_table(described.relation)
    if now is not None:
        if described.partition and (found := _new_partition(described.partition, seen.xid, now)) is not None:
            return found
        if described.key_in_doubt and now.identity.partitions:
            what = "may have had another key, or another name for it, and has partitions that may send only the key"
            return Resnapshot(what, SchemaChangeKind.CHANGE_TYPE)
    identity = _identity(known)
    if identity is None:
        result = compare_without_identity(known, seen.schema, now)
    elif now is None:
        result = compare_dropped_table(known, identity, seen.schema, described.columns)
    else:
        verify_still_redacted(seen.table, identity, now)
        comparison = Comparison(known, identity, seen.schema, now, described.columns)
        result = comparison.evolution(layouts, last_truncate=0)
    return result if isinstance(result, Resnapshot) else _reshape(known, identity, result)


def _explain_at_bound(known: TableShape, now: CatalogTable, last_truncate: int) -> Reshape | Resnapshot:
    """Explain a table as the catalog has it at the stream's bound."""
    table, identity = known.schema.table, _identity(known)
    seen = replace(now.schema, table=table)
    labels: tuple[NewLabels, ...] = ()
    if identity is None:
        result = compare_without_identity(known, seen, now)
    else:
        verify_still_redacted(table, identity, now)
        if identity == now.identity:
            return Reshape((), seen, known.targets, known.token, token_by_key=known.token)
        comparison = Comparison(known, identity, seen, now, at_bound=True)
        result = comparison.evolution(lambda _: {}, last_truncate)
        if isinstance(result, Evolution):
            found = _new_labels(known, identity, now)
            if isinstance(found, Resnapshot):
                return found
            labels = found
    if isinstance(result, Resnapshot):
        return result
    reshape = replace(_reshape(known, identity, result), labels=labels)
    if result.identity.key_index == now.identity.key_index:
        return replace(reshape, token_by_key=reshape.token)
    by_key = replace(result.identity, key_index=now.identity.key_index)
    return replace(reshape, token_by_key=by_key.to_token())


def is_older(xid: int, than: int) -> bool:
    """Return whether a transaction id was assigned before another one (transam.c, TransactionIdPrecedes).

    Transaction ids wrap around. Ids below 3, for example that of a frozen row, are older than all others.
    """
    return xid < 3 <= than or (xid >= 3 and 0 < (than - xid) % (1 << 32) < 1 << 31)


def _identity(known: TableShape) -> TableIdentity | None:
    return None if known.token is None else TableIdentity.from_token(known.token)


def _reshape(known: TableShape, before: TableIdentity | None, found: Evolution) -> Reshape:
    # If nothing changed, the recorded text is kept, also if an older version has written it.
    token = known.token if found.identity == before else found.identity.to_token()
    return Reshape(found.steps, found.seen, found.targets, token)


def _new_partition(partition: int, xid: int, now: CatalogTable) -> Resnapshot | None:
    """Return a re-snapshot if rows of a partition may be missing from the stream; None: all rows are in the stream.

    TRUNCATE of a partition is not in the stream, and leaves no trace if the (sub)transaction that created the partition
    runs it. Therefore rows from that transaction may have been truncated. A subtransaction has a higher id than its
    transaction (xact.c, AssignTransactionId), so a creating (sub)transaction with a lower id than the rows' transaction
    is another transaction, which committed before the partition was used.

    Args:
        partition: OID of a partition that appears in the stream for the first time.
        xid: The transaction of its rows.
        now: The partitioned table.
    """
    if partition not in now.identity.partitions:
        return Resnapshot("had a partition for a while, and lost its rows with it", SchemaChangeKind.DROP_COLUMN)
    created_by = now.created_partitions.get(partition)
    if created_by is not None and not is_older(created_by, xid):
        what = "got rows of a partition from the transaction that created it, which may have truncated it as well"
        return Resnapshot(what, SchemaChangeKind.ADD_COLUMN)
    return None


def _new_labels(known: TableShape, identity: TableIdentity, now: CatalogTable) -> tuple[NewLabels, ...] | Resnapshot:
    """Return the labels that enums of a table got, one element for each column of the destination with such an enum."""
    targets, found = {c.number: known.targets[c.name] for c in identity.columns}, []
    for oid, new in new_labels(identity, now).items():
        for column in now.enums[oid]:
            if not column.plain:
                what = "has an enum that got a label, in a composite, a range, a text or under a mask"
                return Resnapshot(what, SchemaChangeKind.CHANGE_TYPE)
            target = targets.get(column.number)
            if target is not None:
                found.append(NewLabels(target, now.identity.types[oid][: -len(new)], new))
    return tuple(found)
