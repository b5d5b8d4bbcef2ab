"""PostgreSQL as a source: see README.md beside this file."""

from dbmazz_core.connectors.sources.postgres.parser import build_standby_status_update
from dbmazz_core.connectors.sources.postgres.source import PostgresSource

__all__ = ["PostgresSource", "build_standby_status_update"]
