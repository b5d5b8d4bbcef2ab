"""Definitions that were in force between two looks at the catalog: changed and changed back, or names that moved on."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import chain

import pytest

from dbmazz_core.connectors.sources.postgres.catalog.explanation import is_older
from tests.pipeline.stories.columns import COLUMNS
from tests.pipeline.stories.story import MOODS
from tests.pipeline.stories.tables import PARTITIONS, TABLES
from tests.pipeline.stories.types import IN_PLACE, TYPES
from tests.support.lab import Lab

CHAPTERS = {"in place": IN_PLACE, "columns": COLUMNS, "types": TYPES, "tables": TABLES, "partitions": PARTITIONS}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_window_knows_every_definition_that_was_in_force(lab: Lab, chapter: str) -> None:
    """The stories of a chapter go side by side into the same windows, each in a schema of its own."""
    stories = {re.sub(r"\W+", "_", name)[:60]: story for name, story in CHAPTERS[chapter].items()}
    assert len(stories) == len(CHAPTERS[chapter])
    lab = replace(lab, tables=",".join(f"{schema}.*" for schema in stories))
    tables = {schema: [f"{schema}.{table}" for table in story.tables] for schema, story in stories.items()}
    for schema, story in stories.items():
        lab.transactions(f"CREATE SCHEMA {schema}", f"SET search_path TO {schema}", story.setup)
    copied = [
        f"{schema}.{table}"
        for schema, story in stories.items()
        for table in story.tables
        if f"CREATE TABLE {table} " in story.setup
    ]
    lab.capture_and_compare(*copied)
    for schema, story in stories.items():
        lab.transactions(
            f"SET search_path TO {schema}",
            *(f"BEGIN; {statement}; COMMIT" if "SAVEPOINT" in statement else statement for statement in story.then),
        )
    copied_again = lab.capture_and_compare(*chain(*tables.values())).copy_anew
    assert not (copied_again and chapter == "in place")
    for schema, story in stories.items():
        lab.transactions(f"SET search_path TO {schema}", story.after)
    lab.capture_and_compare(*chain(*tables.values()))


def test_a_frozen_catalog_is_no_change(lab: Lab) -> None:
    """Rows of the catalog are compared by their transactions, and vacuuming makes these old."""
    lab.execute(MOODS + "; CREATE TABLE r (id int PRIMARY KEY) PARTITION BY LIST (id)")
    lab.execute("CREATE TABLE p PARTITION OF r DEFAULT")
    lab.capture_and_compare("t", "r")
    for catalog in ("pg_attribute", "pg_enum", "pg_inherits", "pg_class", "pg_type", "pg_publication"):
        lab.execute(f"VACUUM (FREEZE, FULL) pg_catalog.{catalog}")
    lab.execute("INSERT INTO t VALUES (2, 'b'); INSERT INTO r VALUES (1)")
    assert not lab.capture_and_compare("t", "r").copy_anew
    lab.transactions(
        "ALTER TYPE mood RENAME VALUE 'a' TO 'x'",
        "INSERT INTO t VALUES (3, 'x')",
        "ALTER TYPE mood RENAME VALUE 'x' TO 'a'",
    )
    assert lab.capture_and_compare("t", "r").copy_anew


@pytest.mark.parametrize(
    ("xid", "than", "older"),
    [
        (100, 200, True),
        (200, 100, False),
        (100, 100, False),
        (4_294_967_290, 5, True),  # they begin anew
        (5, 4_294_967_290, False),
        (2, 100, True),  # frozen
        (3, 2_147_483_650, True),
        (3, 2_147_483_652, False),
    ],
)
def test_transaction_ids_go_round(xid: int, than: int, older: bool) -> None:
    assert is_older(xid, than) is older
