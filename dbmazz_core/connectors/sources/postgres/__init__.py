"""PostgreSQL as a source: see README.md beside this file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbmazz_core.connectors.sources.postgres.parser.parser import build_standby_status_update
    from dbmazz_core.connectors.sources.postgres.source import PostgresSource

__all__ = ["PostgresSource", "build_standby_status_update"]

_HOMES = {"PostgresSource": "source", "build_standby_status_update": "parser.parser"}


def __getattr__(name: str) -> Any:
    # Imported on demand: most commands use other modules of this package.
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
