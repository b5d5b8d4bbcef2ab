"""Start the processes of a capture while its modules are still being imported.

This module imports neither polars nor DuckDB.
"""

from __future__ import annotations

from dbmazz_core.connectors.sources import prestart

__all__ = ["prestart"]
