"""Starting what a capture needs of processes, before what it needs of modules has been imported.

Light: it imports neither polars nor DuckDB.
"""

from __future__ import annotations

from dbmazz_core.connectors.sources import prestart

__all__ = ["prestart"]
