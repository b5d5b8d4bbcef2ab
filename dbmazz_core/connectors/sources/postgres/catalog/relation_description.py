"""A Relation message, as far as it tells what became of a captured table."""

from __future__ import annotations

from dataclasses import dataclass

from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class DescribedColumn:
    """A column of the stream, by its name and its type's OID."""

    name: str
    type_oid: int


@dataclass(frozen=True, slots=True)
class RelationDescription:
    """A captured table as the stream describes it: `NewSchema.description`.

    Attributes:
        relation: OID of the table.
        columns: All columns of the stream, also those that are not captured, in its order.
        partition: OID of a partition that appears here for the first time; 0: none does.
        root: Another table under whose name the table's changes come here, since it is a partition of that table.
        key_in_doubt: Whether rows come whole (REPLICA IDENTITY FULL) and the columns of the key are not known. The
            schema has no key then.
    """

    relation: int
    columns: tuple[DescribedColumn, ...]
    partition: int = 0
    root: TableRef | None = None
    key_in_doubt: bool = False
