"""`PostgresSource.explain`: how a table changed since the destination recorded its shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable, verify_still_redacted
from dbmazz_core.connectors.sources.postgres.catalog.evolution import (
    Comparison,
    Evolution,
    Layouts,
    of_dropped_table,
    without_identity,
)
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.connectors.sources.postgres.catalog.labels import new_labels
from dbmazz_core.connectors.sources.postgres.catalog.relation_description import RelationDescription
from dbmazz_core.model.policies import SchemaChangeKind
from dbmazz_core.model.schema_events import NewLabels, Reshape, Resnapshot
from dbmazz_core.model.stream import NewSchema
from dbmazz_core.model.table_shape import TableShape


def explain_description(
    known: TableShape, seen: NewSchema, describe: Callable[[int], CatalogTable | None], layouts: Layouts
) -> Reshape | Resnapshot:
    """Explain a table that the stream describes in the middle of its changes.

    Args:
        known: The destination's table.
        seen: The description.
        describe: Looks a table up in the catalog, by its OID.
        layouts: See `Comparison.evolution`.

    Raises:
        ConfigError: A column that was redacted has a name today under which the rules show it.
    """
    described = seen.description
    assert isinstance(described, RelationDescription)
    if described.root is not None:
        why = f"was a partition of {described.root} for a while, with its changes under that name"
        return Resnapshot(why, SchemaChangeKind.DROP_COLUMN)
    now = describe(described.relation)
    if now is not None:
        if described.partition and (found := _new_partition(described.partition, seen.xid, now)) is not None:
            return found
        if described.key_in_doubt and now.identity.partitions:
            what = "has had another key, or its columns renamed, and partitions whose rows may be sent by the key only"
            return Resnapshot(what, SchemaChangeKind.CHANGE_TYPE)
    identity = _identity(known)
    if identity is None:
        result = without_identity(known, seen.schema, now)
    elif now is None:
        result = of_dropped_table(known, identity, seen.schema, described.columns)
    else:
        verify_still_redacted(seen.table, identity, now)
        comparison = Comparison(known, identity, seen.schema, now, described.columns)
        result = comparison.evolution(layouts, truncated_by=0)
    return result if isinstance(result, Resnapshot) else _reshape(known, identity, result)


def explain_at_bound(known: TableShape, now: CatalogTable, *, truncated_by: int) -> Reshape | Resnapshot:
    """Explain a table that the catalog has had so at the stream's bound.

    Args:
        known: The destination's table.
        now: The catalog's.
        truncated_by: Transaction of the last TRUNCATE of the table in the stream; 0: there was none.

    Raises:
        ConfigError: A column that was redacted has a name today under which the rules show it.
    """
    table, identity = known.schema.table, _identity(known)
    seen = replace(now.schema, table=table)
    labels: tuple[NewLabels, ...] = ()
    if identity is None:
        result = without_identity(known, seen, now)
    else:
        verify_still_redacted(table, identity, now)
        comparison = Comparison(known, identity, seen, now, settled=True)
        result = comparison.evolution(lambda _: {}, truncated_by)
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
    """Return whether a transaction id was given before another one (transam.c, TransactionIdPrecedes).

    Transaction ids wrap around; those below 3, of a frozen row for example, are older than all others.
    """
    return xid < 3 <= than or (xid >= 3 and 0 < (than - xid) % (1 << 32) < 1 << 31)


def _identity(known: TableShape) -> TableIdentity | None:
    return None if known.token is None else TableIdentity.from_token(known.token)


def _reshape(known: TableShape, before: TableIdentity | None, found: Evolution) -> Reshape:
    # The same text where nothing changed, also if an older version has written it.
    token = known.token if found.identity == before else found.identity.to_token()
    return Reshape(found.steps, found.seen, found.targets, token)


def _new_partition(partition: int, xid: int, now: CatalogTable) -> Resnapshot | None:
    """Return why a partition that appears in the stream for the first time makes a re-snapshot necessary, or None.

    TRUNCATE of a partition is not in the stream. It leaves no trace in the (sub)transaction that created the partition,
    so rows of that transaction prove nothing. A subtransaction has a higher id than its transaction (xact.c,
    AssignTransactionId), so a lower id is another transaction, and it committed before its partition was used.
    """
    if partition not in now.identity.partitions:
        return Resnapshot("had a partition for a while, and lost its rows with it", SchemaChangeKind.DROP_COLUMN)
    created_by = now.empty_partitions.get(partition)
    if created_by is not None and not is_older(created_by, xid):
        what = "got rows of a partition from the transaction that created it, which may have truncated it as well"
        return Resnapshot(what, SchemaChangeKind.ADD_COLUMN)
    return None


def _new_labels(known: TableShape, identity: TableIdentity, now: CatalogTable) -> tuple[NewLabels, ...] | Resnapshot:
    """Return the labels that enums of a table got, by the destination's columns that contain them."""
    targets, found = {c.number: known.targets[c.name] for c in identity.columns}, []
    for oid, new in new_labels(identity, now).items():
        for column in now.enums[oid]:
            if not column.plain:
                what = "has an enum in a composite, a range, a text or under a mask that got a label"
                return Resnapshot(what, SchemaChangeKind.CHANGE_TYPE)
            target = targets.get(column.number)
            if target is not None:
                found.append(NewLabels(target, now.identity.types[oid][: -len(new)], new))
    return tuple(found)
