"""Two captures into one file: the one of the environment, and one of TEST_SECOND_TABLES through a slot of its own."""

from __future__ import annotations

import os

import dagster as dg

from dbmazz_core.settings.config import Settings
from dbmazz_dagster import DagsterDbmazzTranslator, build_definitions

slot = f"{os.environ['SOURCE_SLOT_NAME']}_2"
second = {
    "TABLES": os.environ["TEST_SECOND_TABLES"],
    "SOURCE_SLOT_NAME": slot,
    "SOURCE_PUBLICATION_NAME": slot,
}
prefix = os.environ.get("TEST_SECOND_PREFIX")

defs = dg.Definitions.merge(
    build_definitions(name="first"),
    build_definitions(
        Settings.from_env({**os.environ, **second}),
        name="second",
        translator=DagsterDbmazzTranslator(key_prefix=[prefix], source_key_prefix=[prefix, "postgres"])
        if prefix
        else None,
    ),
)
