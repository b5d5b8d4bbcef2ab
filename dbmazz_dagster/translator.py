"""The translator, which turns tables into asset specs: keys, groups, kinds and lineage. Subclass it to change them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import dagster as dg

from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class DbmazzTableProps:
    """The properties of a table that a translator gets when definitions load, without a database.

    >>> DbmazzTableProps(TableRef("public", "orders"), slot="shop").table.sql
    '"public"."orders"'

    Attributes:
        table: The table, which has the same name in source and destination.
        slot: The replication slot that carries the table's changes.
        database: DuckDB's name for the destination file, None if it is not known yet.
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

    Subclass it for a change that no attribute allows:

        class Named(DagsterDbmazzTranslator):
            def get_asset_spec(self, props):
                spec = super().get_asset_spec(props)
                return spec.replace_attributes(key=["shop", props.table.name])

    Attributes:
        key_prefix: Prefix of the keys of captured tables (before `[schema, table]`) and of the checkpoint's key.
        source_key_prefix: Prefix of the keys of source tables, before `[schema, table]`.
        group_name: Group of the captured tables and the checkpoint; by default the name of the slot.
        owners: Owners of the captured tables, such as `team:data`.
        tags: Tags of the captured tables and the checkpoint.
        automation_condition: Automation condition of the captured tables, not needed with the sensor.
    """

    key_prefix: Sequence[str] = ()
    source_key_prefix: Sequence[str] = ("postgres",)
    group_name: str | None = None
    owners: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    automation_condition: dg.AutomationCondition[dg.AssetKey] | None = None

    def get_asset_spec(self, props: DbmazzTableProps) -> dg.AssetSpec:
        """Return the asset of a table in the destination."""
        qualified = [props.table.schema, props.table.name]
        return dg.AssetSpec(
            dg.AssetKey([*self.key_prefix, *map(_key_part, qualified)]),
            deps=[self.get_source_asset_spec(props).key],
            description=f"`{props.table}` in DuckDB, captured from PostgreSQL through replication slot `{props.slot}`.",
            group_name=self.group_name or props.slot,
            kinds={"postgres", "duckdb"},
            owners=self.owners,
            tags=self.tags,
            automation_condition=self.automation_condition,
            metadata={"dagster/table_name": ".".join(filter(None, [props.database, *qualified]))},
        )

    def get_source_asset_spec(self, props: DbmazzTableProps) -> dg.AssetSpec:
        """Return the external asset of a table in PostgreSQL.

        Its key does not contain the database, so that development and production have the same lineage.
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
        """Return the checkpoint's asset, which every window materializes."""
        return dg.AssetSpec(
            dg.AssetKey([*self.key_prefix, "dbmazz", slot]),
            description=f"Checkpoint of replication slot `{slot}`: confirmed LSN, lag, and the changes of each window.",
            group_name=self.group_name or slot,
            kinds={"postgres", "duckdb"},
            tags=self.tags,
        )


def _key_part(name: str) -> str:
    """Return a name that Dagster accepts in an asset key: letters, digits, `_` and `-`, since op names contain it.

    If a character was replaced, a checksum of the whole name is appended, so that different names stay different.

    >>> _key_part("orders"), _key_part("Order Items")
    ('orders', 'Order_Items_dfa98277')
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return name if safe == name else f"{safe}_{crc32(name.encode()):08x}"
