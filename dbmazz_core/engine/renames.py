"""Find tables that were renamed at the source, or replaced by another table with their name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dbmazz_core.errors import SchemaChanged
from dbmazz_core.model.policies import SchemaAction, SchemaChangeKind
from dbmazz_core.settings.by_table import SchemaPolicy
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class NameChanges:
    """How the names of tables changed.

    Attributes:
        renamed: By old name: the new name of a followed table.
        replaced: Names that now belong to another table than the copied table.
        refused: By old name: the new name of a renamed table that the policy does not let the destination follow, with
            the error.
    """

    renamed: Mapping[TableRef, TableRef]
    replaced: frozenset[TableRef]
    refused: Mapping[TableRef, tuple[TableRef, SchemaChanged]] = field(default_factory=dict)


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
        names_today: By the name under which a followed table was copied: its name today.
        followed: The destination's tables that are captured, and whose tokens are known.
        kept: All tables of the destination, also tables that are no longer captured.
        policy: The action for a renamed table.
    """
    renamed = {old: new for old, new in names_today.items() if new != old}
    # A table that is no longer captured keeps its name in the destination: no other table can get this name.
    while taken := {old for old, new in renamed.items() if new in kept and new not in renamed}:
        renamed = {old: new for old, new in renamed.items() if old not in taken}
    before = {new: old for old, new in renamed.items()}
    replaced = {
        ref
        for ref in configured
        if (copied_as := before.get(ref, ref)) in followed and names_today.get(copied_as) != ref
    }
    refused = {
        old: (new, _refused(old, new))
        for old, new in renamed.items()
        if policy.of(old, SchemaChangeKind.RENAME_TABLE) is not SchemaAction.APPLY
    }
    renamed = {old: new for old, new in renamed.items() if old not in refused}
    return NameChanges(renamed, frozenset(replaced), refused)


def _refused(old: TableRef, new: TableRef) -> SchemaChanged:
    return SchemaChanged(
        f"{old} was renamed to {new} at the source; nothing was applied",
        object=old,
        remedy=f"rename it back: ALTER TABLE {new.sql} RENAME TO ...; or let the destination follow: "
        "SCHEMA_CHANGES=apply",
    )
