"""Tables whose columns are all replaced in one window: the destination never has a table without columns."""

from __future__ import annotations

import pytest

from dbmazz_core.model.policies import Mode
from tests.support.lab import Lab

#: By table: its columns, a row, what replaces the columns (a transaction each), and a row of the new shape.
REPLACED: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "added_then_dropped": ("a int", "1", ("ALTER TABLE {t} ADD COLUMN b int", "ALTER TABLE {t} DROP COLUMN a"), "7"),
    "dropped_then_added": ("a int", "1", ("ALTER TABLE {t} DROP COLUMN a", "ALTER TABLE {t} ADD COLUMN b int"), "7"),
    "one_statement": ("a int", "1", ("ALTER TABLE {t} ADD COLUMN b int, DROP COLUMN a",), "7"),
    "with_default": ("a int", "1", ("ALTER TABLE {t} ADD COLUMN b int DEFAULT 5, DROP COLUMN a",), "7"),
    "same_name_other_type": (
        "a int",
        "1",
        ("ALTER TABLE {t} DROP COLUMN a", "ALTER TABLE {t} ADD COLUMN a text"),
        "'seven'",
    ),
    "same_name_same_type": (
        "a int",
        "1",
        ("ALTER TABLE {t} DROP COLUMN a", "ALTER TABLE {t} ADD COLUMN a int DEFAULT 3"),
        "7",
    ),
    "two_by_two": (
        "a int, b text",
        "1, 'x'",
        ("ALTER TABLE {t} ADD COLUMN c int, ADD COLUMN d text", "ALTER TABLE {t} DROP COLUMN a, DROP COLUMN b"),
        "7, 'seven'",
    ),
    "two_by_two_of_the_same_names": (
        "a int, b text",
        "1, 'x'",
        ("ALTER TABLE {t} DROP COLUMN a, DROP COLUMN b", "ALTER TABLE {t} ADD COLUMN b int, ADD COLUMN a text"),
        "7, 'seven'",
    ),
    "two_by_one": (
        "a int, b text",
        "1, 'x'",
        ("ALTER TABLE {t} DROP COLUMN a, DROP COLUMN b", "ALTER TABLE {t} ADD COLUMN b bigint"),
        "7",
    ),
    "renamed_to_the_dropped": (
        "a int, b int",
        "1, 2",
        ("ALTER TABLE {t} DROP COLUMN a", "ALTER TABLE {t} RENAME COLUMN b TO a", "ALTER TABLE {t} ADD COLUMN b text"),
        "7, 'seven'",
    ),
    "alembic_version": (
        "version_num varchar(32) PRIMARY KEY",
        "'ae1027a6acf'",
        ("ALTER TABLE {t} ADD COLUMN revision text PRIMARY KEY DEFAULT 'x', DROP COLUMN version_num",),
        "'c7'",
    ),
    "schema_migrations": (
        "version int PRIMARY KEY",
        "1",
        ("ALTER TABLE {t} DROP COLUMN version", "ALTER TABLE {t} ADD COLUMN version bigint PRIMARY KEY DEFAULT 2"),
        "7",
    ),
}


#: Whether rows come to the table that has new columns; in between: it is emptied before its old columns go.
ROWS = ("with rows", "without rows", "with rows in between")


@pytest.mark.parametrize("mode", list(Mode))
def test_every_column_is_replaced(lab: Lab, mode: Mode) -> None:
    """All cases side by side, a table for each."""
    lab = lab.kept(mode)
    cases = {
        f"{table}_{rows.replace(' ', '_')}": (rows, *replaced) for table, replaced in REPLACED.items() for rows in ROWS
    }
    lab.transactions(
        "CREATE TABLE other (id int PRIMARY KEY)",
        *(
            f"CREATE TABLE {table} ({columns}); INSERT INTO {table} VALUES ({row})"
            for table, (_, columns, row, _, _) in cases.items()
        ),
    )
    lab.capture_and_compare("other", *cases)
    for table, (rows, _, _, statements, new_row) in cases.items():
        transactions = [statement.format(t=table) for statement in statements]
        if rows == "with rows in between" and statements[0].startswith("ALTER TABLE {t} ADD"):
            transactions.insert(1, f"DELETE FROM {table}")
        if rows != "without rows":
            transactions.append(f"INSERT INTO {table} VALUES ({new_row})")
        lab.transactions(*transactions)
    lab.execute("INSERT INTO other VALUES (1)")
    lab.capture_and_compare("other", *cases)
    lab.transactions(
        *(
            f"DELETE FROM {table}; INSERT INTO {table} VALUES ({new_row})"
            for table, (_, _, _, _, new_row) in cases.items()
        )
    )
    lab.capture_and_compare("other", *cases)
