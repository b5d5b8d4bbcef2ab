"""Destinations; `create_sink` opens the configured one."""

from __future__ import annotations

from dbmazz_core.connectors.sinks.duckdb import DuckDBSink
from dbmazz_core.model.sink import Sink
from dbmazz_core.settings.config import SinkConfig
from dbmazz_core.settings.memory import MemoryConfig


def create_sink(
    config: SinkConfig,
    *,
    feed: str,
    read_only: bool = False,
    often: bool = False,
    memory: MemoryConfig | None = None,
) -> Sink:
    """Open the destination that `config.type` names.

    Args:
        config: The destination.
        feed: The feed that the tables and the checkpoint belong to (PostgreSQL: the slot).
        read_only: Whether to open it for reading only.
        often: Whether it will be used and released many times.
        memory: The memory of the process, of which the destination takes its share; None: the default.

    Raises:
        DestinationError: If the destination cannot be opened.
    """
    return DuckDBSink(config, feed=feed, read_only=read_only, often=often, memory=memory)
