"""A code location with the capture that the environment configures."""

from __future__ import annotations

from dbmazz_dagster import build_definitions

defs = build_definitions(name="bench")
