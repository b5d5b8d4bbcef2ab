"""Tables that go by another name, or that took another's, since they were last looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.errors import SchemaChanged
from dbmazz_core.model.policies import SchemaAction, SchemaChangeKind
from dbmazz_core.model.source import FoundTable
from dbmazz_core.settings.by_table import SchemaPolicy
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class NameChanges:
    """What became of names.

    Attributes:
        renamed: Old name to new name, of tables that are followed.
        replaced: Names under which another table is found than the one that was copied.
    """

    renamed: Mapping[TableRef, TableRef]
    replaced: frozenset[TableRef]


def name_changes(
    configured: Iterable[FoundTable],
    followed: Mapping[TableRef, TableIdentity | None],
    kept: Collection[TableRef],
    policy: SchemaPolicy,
) -> NameChanges:
    """Compare the catalog's names with the destination's.

    Args:
        configured: The tables that are to be captured, as the catalog has them.
        followed: The destination's tables that are captured, each with what it was.
        kept: All of its tables, also those that it has only kept.
        policy: What is done about it.

    Raises:
        SchemaChanged: If the policy is not to apply it.
    """
    names = {table.oid: table.ref for table in configured}
    renamed = {
        old: names[identity.oid]
        for old, identity in followed.items()
        if identity is not None and names.get(identity.oid, old) != old
    }
    # A name that stays in use by the table that had it, though that is not captured any more, is not free.
    while taken := {old for old, new in renamed.items() if new in kept and new not in renamed}:
        renamed = {old: new for old, new in renamed.items() if old not in taken}
    found = {new: old for old, new in renamed.items()}
    replaced = set()
    for oid, ref in names.items():
        identity = followed.get(found.get(ref, ref))
        if identity is not None and identity.oid != oid:
            replaced.add(ref)
    for old, new in renamed.items():
        if policy.of(old, SchemaChangeKind.RENAME_TABLE) is not SchemaAction.APPLY:
            raise SchemaChanged(
                f"{old} was renamed to {new} in PostgreSQL; nothing was applied",
                object=str(old),
                remedy=f"rename it back: ALTER TABLE {new.sql} RENAME TO ...; or have it follow: SCHEMA_CHANGES=apply",
            )
    return NameChanges(renamed, frozenset(replaced))
