"""How tables become assets: keys, groups, kinds, lineage. Subclass the translator to choose otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import dagster as dg

from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class DbmazzTableProps:
    """What a translator knows of a table when definitions load; no database has been asked.

    Attributes:
        table: The table, of the same name in source and destination.
        slot: The replication slot that brings its changes.
        database: DuckDB's name for the destination's file, None where it is not known yet.
    """

    table: TableRef
    slot: str
    database: str | None = None


@dataclass(frozen=True)
class DagsterDbmazzTranslator:
    """Turns tables into asset specs.

    >>> orders = DbmazzTableProps(TableRef("public", "orders"), slot="shop", database="shop")
    >>> spec = DagsterDbmazzTranslator(key_prefix=["raw"]).get_asset_spec(orders)
    >>> spec.key.to_user_string(), [d.asset_key.to_user_string() for d in spec.deps], sorted(spec.kinds)
    ('raw/public/orders', ['postgres/public/orders'], ['duckdb', 'postgres'])

    Subclass it for anything that the attributes do not say:

        class Named(DagsterDbmazzTranslator):
            def get_asset_spec(self, props):
                spec = super().get_asset_spec(props)
                return spec.replace_attributes(key=["shop", props.table.name])

    Attributes:
        key_prefix: In front of `[schema, table]` and of the checkpoint's key.
        source_key_prefix: In front of `[schema, table]` of the source tables.
        group_name: Group of the captured tables and the checkpoint; by default the slot's name.
        owners: Owners of the captured tables, such as `team:data`.
        tags: Tags of the captured tables and the checkpoint.
        automation_condition: Of the captured tables; the sensor makes one needless.
    """

    key_prefix: Sequence[str] = ()
    source_key_prefix: Sequence[str] = ("postgres",)
    group_name: str | None = None
    owners: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    automation_condition: dg.AutomationCondition[dg.AssetKey] | None = None

    def get_asset_spec(self, props: DbmazzTableProps) -> dg.AssetSpec:
        """The asset of a table in the destination."""
        qualified = [props.table.schema, props.table.name]
        return dg.AssetSpec(
            dg.AssetKey([*self.key_prefix, *map(_key_part, qualified)]),
            deps=[self.get_source_asset_spec(props).key],
            description=f"`{props.table}`, kept equal to PostgreSQL's by slot `{props.slot}`.",
            group_name=self.group_name or props.slot,
            kinds={"postgres", "duckdb"},
            owners=self.owners,
            tags=self.tags,
            automation_condition=self.automation_condition,
            metadata={"dagster/table_name": ".".join(filter(None, [props.database, *qualified]))},
        )

    def get_source_asset_spec(self, props: DbmazzTableProps) -> dg.AssetSpec:
        """The external asset that stands for the table in PostgreSQL.

        Its key does not name the database, so that development and production share one lineage.
        """
        qualified = [props.table.schema, props.table.name]
        return dg.AssetSpec(
            dg.AssetKey([*self.source_key_prefix, *map(_key_part, qualified)]),
            description=f"`{props.table}` in PostgreSQL.",
            group_name=f"{self.group_name or props.slot}_source",
            kinds={"postgres"},
            metadata={"dagster/table_name": ".".join(qualified)},
        )

    def get_checkpoint_spec(self, slot: str) -> dg.AssetSpec:
        """The asset that every window materializes: how far the destination is."""
        return dg.AssetSpec(
            dg.AssetKey([*self.key_prefix, "dbmazz", slot]),
            description=f"How far slot `{slot}` has come: confirmed LSN, lag, and what each window did.",
            group_name=self.group_name or slot,
            kinds={"postgres", "duckdb"},
            tags=self.tags,
        )


def _key_part(name: str) -> str:
    """A name that Dagster takes in the key of an asset that others depend on: letters, digits, `_` and `-`
    (it makes op names of them). What had to be replaced is told apart by a checksum of the whole name.

    >>> _key_part("orders"), _key_part("Order Items")
    ('orders', 'Order_Items_dfa98277')
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return name if safe == name else f"{safe}_{crc32(name.encode()):08x}"
