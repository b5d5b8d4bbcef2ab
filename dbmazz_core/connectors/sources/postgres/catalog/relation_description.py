"""The contents of a Relation message that explain how a captured table changed."""

from __future__ import annotations

from dataclasses import dataclass

from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class DescribedColumn:
    """A column in the stream, with its name and the OID of its type."""

    name: str
    type_oid: int


@dataclass(frozen=True, slots=True)
class RelationDescription:
    """A captured table as the stream describes it, the value of `NewSchema.description`.

    Attributes:
        relation: OID of the table.
        columns: All columns in the stream, captured or not, in the stream's order.
        partition: OID of a partition whose changes follow for the first time; 0: none.
        root: The partitioned table under whose name the table's changes come here; None: under the table's own name.
        key_in_doubt: Whether rows come whole (REPLICA IDENTITY FULL) and the columns of the key are not known. The
            schema has no key then.
    """

    relation: int
    columns: tuple[DescribedColumn, ...]
    partition: int = 0
    root: TableRef | None = None
    key_in_doubt: bool = False
