"""Tables that were renamed at the source, or replaced by another table of their name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dbmazz_core.errors import SchemaChanged
from dbmazz_core.model.policies import SchemaAction, SchemaChangeKind
from dbmazz_core.settings.by_table import SchemaPolicy
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class NameChanges:
    """How names changed.

    Attributes:
        renamed: Old name to new name, of tables that are followed.
        replaced: Names that belong to another table now than to the one that was copied.
    """

    renamed: Mapping[TableRef, TableRef]
    replaced: frozenset[TableRef]


def name_changes(
    configured: Collection[TableRef],
    names_today: Mapping[TableRef, TableRef],
    followed: Collection[TableRef],
    kept: Collection[TableRef],
    policy: SchemaPolicy,
) -> NameChanges:
    """Compare the source's names with the destination's.

    Args:
        configured: The configured tables.
        names_today: Followed tables by the name under which they were copied, with their names of today.
        followed: The destination's tables that are captured, and whose tokens are known.
        kept: All tables of the destination, also those that are not captured any more.
        policy: The action for a renamed table.

    Raises:
        SchemaChanged: The policy is not to apply a rename.
    """
    renamed = {old: new for old, new in names_today.items() if new != old}
    # A table that is not captured any more, but still in the destination, keeps its name there: it is not free.
    while taken := {old for old, new in renamed.items() if new in kept and new not in renamed}:
        renamed = {old: new for old, new in renamed.items() if old not in taken}
    before = {new: old for old, new in renamed.items()}
    replaced = {
        ref
        for ref in configured
        if (copied_as := before.get(ref, ref)) in followed and names_today.get(copied_as) != ref
    }
    for old, new in renamed.items():
        if policy.of(old, SchemaChangeKind.RENAME_TABLE) is not SchemaAction.APPLY:
            raise SchemaChanged(
                f"{old} was renamed to {new} at the source; nothing was applied",
                object=str(old),
                remedy=f"rename it back: ALTER TABLE {new.sql} RENAME TO ...; or have it follow: SCHEMA_CHANGES=apply",
            )
    return NameChanges(renamed, frozenset(replaced))
