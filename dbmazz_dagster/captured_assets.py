"""Which assets of an `@dbmazz_assets` definition stand for which tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import dagster as dg

from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import TableRef
from dbmazz_dagster.tags import CHECKPOINT_METADATA, SOURCE_METADATA, TABLE_METADATA


@dataclass(frozen=True, slots=True)
class CapturedAssets:
    """The asset keys of one `@dbmazz_assets` definition.

    Attributes:
        tables: The asset of each table.
        sources: The asset of each table in PostgreSQL.
        checkpoint: The checkpoint's asset.
        slot: The slot.
        checks: The checks that windows evaluate.
    """

    tables: Mapping[TableRef, dg.AssetKey]
    sources: Mapping[TableRef, dg.AssetKey]
    checkpoint: dg.AssetKey | None
    slot: str | None
    checks: frozenset[dg.AssetCheckKey]

    @classmethod
    def of(cls, definition: dg.AssetsDefinition) -> Self:
        """Return the assets of a definition, as their metadata describes them."""
        tables: dict[TableRef, dg.AssetKey] = {}
        sources: dict[TableRef, dg.AssetKey] = {}
        checkpoint: dg.AssetKey | None = None
        slot: str | None = None
        for key, metadata in definition.metadata_by_key.items():
            if TABLE_METADATA in metadata:
                (pattern,) = parse_tables(str(metadata[TABLE_METADATA]))
                table = TableRef(pattern.schema, str(pattern.name))
                tables[table] = key
                if source := metadata.get(SOURCE_METADATA):
                    sources[table] = dg.AssetKey.from_user_string(str(source))
            elif CHECKPOINT_METADATA in metadata:
                checkpoint, slot = key, str(metadata[CHECKPOINT_METADATA])
        # Of all assets, also of those that a run does not select.
        checks = frozenset(spec.key for spec in definition.node_check_specs_by_output_name.values())
        return cls(tables, sources, checkpoint, slot, checks)

    def selection(self, changed: Collection[TableRef] | None) -> dict[str, Any]:
        """Return what a run selects, as arguments of `RunRequest`: the checkpoint and the tables that have changed.

        The checks of windows come with the tables. Without their keys, Dagster would add those that have steps of their
        own. None for `changed`, as for a definition without checkpoint: empty, so that the run selects all.
        """
        if self.checkpoint is None or changed is None:
            return {}
        tables = sorted(key for table, key in self.tables.items() if table in changed)
        checks = sorted(check for check in self.checks if check.asset_key in tables)
        return {"asset_selection": [self.checkpoint, *tables], "asset_check_keys": checks}

    def verify_slot(self, slot: str) -> None:
        """Raise ConfigError if the assets are those of another slot than the resource's."""
        if self.slot is not None and self.slot != slot:
            raise ConfigError(
                f"the assets are those of slot {self.slot}, and the resource captures slot {slot}",
                object="slot",
                remedy="give both the same slot: @dbmazz_assets(resource), the resource that the function gets, and "
                "build_dbmazz_sensor(resource, target=assets)",
            )
