"""Destinations. `create_sink` chooses one by configuration."""

from __future__ import annotations

from dbmazz_core.connectors.sinks.duckdb import DuckDBSink
from dbmazz_core.model.sink import Sink
from dbmazz_core.settings.config import SinkConfig


def create_sink(config: SinkConfig, *, feed: str, read_only: bool = False) -> Sink:
    """Open the destination that `config.type` names.

    Args:
        config: What to open.
        feed: The feed whose tables and checkpoint these are (PostgreSQL: the slot).
        read_only: Whether it is opened for reading only.
    """
    return DuckDBSink(config, feed=feed, read_only=read_only)
