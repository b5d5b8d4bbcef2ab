"""Destinations. `create_sink` chooses one by configuration."""

from __future__ import annotations

from dbmazz_core.config import SinkConfig
from dbmazz_core.connectors.sinks.base import Sink
from dbmazz_core.connectors.sinks.duckdb import DuckDBSink


def create_sink(config: SinkConfig, *, read_only: bool = False) -> Sink:
    """Open the destination that `config.type` names."""
    return DuckDBSink(config, read_only=read_only)


__all__ = ["Sink", "create_sink"]
