"""Sources. `create_source` chooses one by configuration."""

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
    """The source that `config.type` names; it connects when first used.

    Args:
        config: What to capture.
        snapshot: How tables are copied.
        on_slot_wait: Called with a sentence while a slot's creation waits for open transactions.

    >>> from dbmazz_core.settings.config import Settings
    >>> create_source(Settings.from_env({"SOURCE_URL": "postgres://db/shop", "TABLES": "orders"}).source).config.slot
    'dbmazz_slot'
    """
    from dbmazz_core.connectors.sources.postgres.source import PostgresSource

    return PostgresSource(config, snapshot=snapshot, on_slot_wait=on_slot_wait)


def prestart() -> None:
    """Start the process that receivers are forked from, so that it imports its modules while the caller does."""
    from dbmazz_core.connectors.sources.postgres.replication.launcher import prestart

    prestart()


__all__ = ["PostgresSource", "create_source", "prestart"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the receiver process needs this package, but neither polars nor DuckDB.
    if name == "PostgresSource":
        from dbmazz_core.connectors.sources.postgres.source import PostgresSource

        return PostgresSource
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
