"""Sources. `create_source` chooses one by configuration."""

from __future__ import annotations

from dbmazz_core.config import SourceConfig
from dbmazz_core.connectors.sources.postgres import PostgresSource


def create_source(config: SourceConfig) -> PostgresSource:
    """The source that `config.type` names; it connects when first used.

    >>> from dbmazz_core.config import Settings
    >>> create_source(Settings.from_env({"SOURCE_URL": "postgres://db/shop", "TABLES": "orders"}).source).config.slot
    'dbmazz_slot'
    """
    return PostgresSource(config)


__all__ = ["PostgresSource", "create_source"]
