"""Sources of changes. `create_source` returns the source that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbmazz_core.connectors.sources.postgres.source import PostgresSource
    from dbmazz_core.settings.config import SnapshotConfig, SourceConfig


def create_source(
    config: SourceConfig,
    *,
    snapshot: SnapshotConfig | None = None,
    on_slot_wait: Callable[[str], None] | None = None,
) -> PostgresSource:
    """Return the source that `config.type` names. The source connects when it is first used.

    Args:
        config: Settings of the source.
        snapshot: Settings of copies; None: the defaults.
        on_slot_wait: Called with a sentence while the creation of a slot waits for open transactions.

    >>> from dbmazz_core.settings.config import Settings
    >>> create_source(Settings.from_env({"SOURCE_URL": "postgres://db/shop", "TABLES": "orders"}).source).config.slot
    'dbmazz_slot'
    """
    from dbmazz_core.connectors.sources.postgres.source import PostgresSource

    return PostgresSource(config, snapshot=snapshot, on_slot_wait=on_slot_wait)


__all__ = ["PostgresSource", "create_source"]


def __getattr__(name: str) -> Any:
    # Imported on demand: most commands use other modules of this package.
    if name == "PostgresSource":
        from dbmazz_core.connectors.sources.postgres.source import PostgresSource

        return PostgresSource
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
