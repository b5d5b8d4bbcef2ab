"""Destinations. `create_sink` chooses one by configuration."""

from __future__ import annotations

from dbmazz_core.connectors.sinks.duckdb import DuckDBSink
from dbmazz_core.model.sink import Sink
from dbmazz_core.settings.config import SinkConfig


def create_sink(config: SinkConfig, *, read_only: bool = False) -> Sink:
    """Open the destination that `config.type` names."""
    return DuckDBSink(config, read_only=read_only)
