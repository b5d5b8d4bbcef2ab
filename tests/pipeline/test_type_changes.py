"""Types that change under rows which nobody writes: what the destination keeps as text must become the new text."""

from __future__ import annotations

import re

import pytest

from tests.pipeline.test_column_rules import KEY, chosen, hashed
from tests.support.lab import Lab

#: Without a rewrite, and the text of every row is another one: type before, value, change.
OTHER_TEXT = {
    "cidr to inet": ("cidr", "10.0.0.1/32", "TYPE inet"),
    "cidr[] to inet[]": ("cidr[]", "{10.0.0.1/32}", "TYPE inet[]"),
    "oid to regclass": ("oid", "1259", "TYPE regclass"),
    "regprocedure to regproc": ("regprocedure", "pg_catalog.now()", "TYPE regproc"),
    "only decimals to numeric": ("numeric(2,2)", "0.50", "TYPE numeric"),
}
#: Likewise, and the text is the same.
SAME_TEXT = {
    "varchar to text": ("varchar(5)", "abc", "TYPE text"),
    "text to citext": ("text", "Abc", "TYPE citext"),
    "citext to text": ("citext", "Abc", "TYPE text"),
    "more bits": ("bit varying(5)", "101", "TYPE bit varying(9)"),
    "bits": ("bit(3)", "101", "TYPE bit varying"),
    "interval": ("interval(3)", "1 day", "TYPE interval(6)"),
    "fields": ("interval day", "1 day", "TYPE interval"),
    "longer": ("numeric(10,2)", "1.50", "TYPE numeric"),
}


def copied_anew_by(lab: Lab, before: str, value: str, change: str) -> bool:
    lab.execute("CREATE EXTENSION IF NOT EXISTS citext")
    lab.execute(f"CREATE TABLE t (id int PRIMARY KEY, v {before}); INSERT INTO t VALUES (1, '{value}'), (2, NULL)")
    lab.capture_and_compare("t")
    lab.transactions("INSERT INTO t VALUES (3)", f"ALTER TABLE t ALTER v {change}", "INSERT INTO t VALUES (4)")
    copied = bool(lab.capture_and_compare("t").copy_anew)
    lab.transactions("UPDATE t SET id = -id")
    assert not lab.capture_and_compare("t").copy_anew
    return copied


def test_types_with_another_text_are_copied_anew_and_those_with_the_same_are_not(lab: Lab) -> None:
    """A table for each change, all in one window."""
    lab.execute("CREATE EXTENSION citext")
    changes = {re.sub(r"\W", "_", name): change for name, change in {**OTHER_TEXT, **SAME_TEXT}.items()}
    for table, (before, value, _) in changes.items():
        lab.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v {before})")
        lab.execute(f"INSERT INTO {table} VALUES (1, '{value}'), (2, NULL)")
    lab.capture_and_compare(*changes)
    for table, (_, _, change) in changes.items():
        lab.transactions(
            f"INSERT INTO {table} VALUES (3)",
            f"ALTER TABLE {table} ALTER v {change}",
            f"INSERT INTO {table} VALUES (4)",
        )
    copied = {table.name for table in lab.capture_and_compare(*changes).copy_anew}
    assert copied == {re.sub(r"\W", "_", name) for name in OTHER_TEXT}
    lab.transactions(*(f"UPDATE {table} SET id = -id" for table in changes))
    assert not lab.capture_and_compare(*changes).copy_anew


@pytest.mark.since(15)
def test_a_number_of_more_decimals_than_digits_that_becomes_any(lab: Lab) -> None:
    assert copied_anew_by(lab, "numeric(2,5)", "-0.00012", "TYPE numeric")


def test_a_time_that_gets_a_zone_and_is_kept_as_text(lab: Lab) -> None:
    lab = chosen(lab, as_text="t.v")
    # Other time zones rewrite.
    lab.execute(f"ALTER DATABASE {lab.database.name} SET timezone = 'UTC'")
    assert copied_anew_by(lab, "timestamp", "2026-01-02 03:04", "TYPE timestamptz")


def test_a_number_that_becomes_another_one_under_a_hash(lab: Lab) -> None:
    lab = chosen(lab, masks="t.v=hash")
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, -1)")
    lab.capture()
    lab.transactions("ALTER TABLE t ALTER v TYPE oid", "INSERT INTO t VALUES (2, 4294967295)")
    assert lab.capture().copy_anew
    assert {hash for (hash,) in lab.rows("SELECT v FROM public.t")} == {hashed("4294967295", KEY)}


def test_a_new_column_has_its_default_in_older_rows(lab: Lab) -> None:
    """The catalog keeps it as an array, whose elements are parted as the type wants it: boxes by a semicolon."""
    columns = [
        ("box", "'(3,4),(1,2)'"),
        ("box[]", "'{(3,4),(1,2);(1,1),(0,0)}'"),
        ("boxes", "'(3,4),(1,2)'"),
        ("point", "'(1,2)'"),
        ("text[]", "ARRAY['a,\"b', NULL, '']"),
        ("text", "''"),
        ("text", "'NULL'"),
    ]
    tables = [f"t{number}" for number, _ in enumerate(columns)]
    lab.execute("CREATE DOMAIN boxes AS box")
    lab.execute(
        "; ".join(f"CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} VALUES (1)" for table in tables)
    )
    lab.capture_and_compare(*tables)
    for table, (column, value) in zip(tables, columns, strict=True):
        lab.transactions(
            f"ALTER TABLE {table} ADD COLUMN v {column} DEFAULT {value}", f"INSERT INTO {table} VALUES (2)"
        )
    assert not lab.capture_and_compare(*tables).copy_anew


MADE_TYPES = """
    CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN feeling AS mood; CREATE TYPE pair AS (a int, m mood);
    CREATE TYPE moods AS RANGE (subtype = mood);
"""
HOLDING_AN_ENUM = {
    "mood": "good",
    "mood[]": "{good,bad}",
    "feeling": "good",
    "feeling[]": "{good}",
    "pair": "(1,good)",
    "pair[]": '{"(1,good)"}',
    "moods": "[good,bad]",
}


def test_a_label_that_is_renamed_is_so_in_every_row(lab: Lab) -> None:
    lab.execute(MADE_TYPES)
    tables = {f"t{number}": column for number, column in enumerate(HOLDING_AN_ENUM)}
    for table, column in tables.items():
        lab.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v {column})")
        lab.execute(f"INSERT INTO {table} VALUES (1, '{HOLDING_AN_ENUM[column]}')")
    lab.capture_and_compare(*tables)
    lab.transactions("ALTER TYPE mood ADD VALUE 'so' BEFORE 'bad'", *(f"UPDATE {table} SET id = 2" for table in tables))
    # Which labels a composite's or a range's text holds is not looked for.
    copied = {tables[table.name] for table in lab.capture_and_compare(*tables).copy_anew}
    assert copied == {"pair", "pair[]", "moods"}
    lab.execute("ALTER TYPE mood RENAME VALUE 'good' TO 'fine'")
    assert {table.name for table in lab.capture_and_compare(*tables).copy_anew} == set(tables)
    lab.execute("; ".join(["ALTER TYPE mood RENAME TO humour", *(f"UPDATE {table} SET id = 3" for table in tables)]))
    assert not lab.capture_and_compare(*tables).copy_anew


@pytest.mark.parametrize("key", ["PRIMARY KEY (v)", "UNIQUE (w)"])
def test_labels_that_are_exchanged_in_a_key(lab: Lab, key: str) -> None:
    lab.execute(
        f"CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE t (v mood, w int, {key}); ALTER TABLE t REPLICA IDENTITY "
        f"{'FULL' if 'w' in key else 'DEFAULT'}; INSERT INTO t VALUES ('a', 1), ('b', 2)"
    )
    lab.capture_and_compare("t")
    lab.transactions(
        "ALTER TYPE mood RENAME VALUE 'a' TO 'x'; ALTER TYPE mood RENAME VALUE 'b' TO 'a';"
        "ALTER TYPE mood RENAME VALUE 'x' TO 'b'",
        "UPDATE t SET w = 3 WHERE v = 'a'",
    )
    lab.capture_and_compare("t")
    lab.transactions("UPDATE t SET w = w + 1", "ALTER TYPE mood RENAME VALUE 'b' TO 'c'", "UPDATE t SET w = w + 1")
    lab.capture_and_compare("t")


def test_an_attribute_that_a_composite_gets(lab: Lab) -> None:
    lab.execute("CREATE TYPE pair AS (a int); CREATE TABLE t (id int PRIMARY KEY, v pair, w pair[])")
    lab.execute("INSERT INTO t VALUES (1, '(1)', '{(1)}'), (2, NULL, NULL)")
    lab.capture_and_compare("t")
    lab.transactions("ALTER TYPE pair ADD ATTRIBUTE b text", "INSERT INTO t VALUES (3, '(1,b)')")
    assert lab.capture_and_compare("t").copy_anew
    # The text is the same, but it may have been another in between: the catalog has the last change only.
    lab.transactions("ALTER TYPE pair RENAME ATTRIBUTE b TO c", "UPDATE t SET id = -id")
    assert lab.capture_and_compare("t").copy_anew


def test_a_domain_over_an_enum_is_copied(lab: Lab) -> None:
    """`enum_out` takes no domain; nor do others cast to what they are over by a name that means a length of 1."""
    lab.execute(
        f"{MADE_TYPES} CREATE DOMAIN felt AS feeling; CREATE DOMAIN five AS char(5); CREATE DOMAIN bits AS bit(3);"
        "CREATE DOMAIN two AS pair; CREATE DOMAIN span AS moods;"
        "CREATE TABLE t (id int PRIMARY KEY, a feeling, b felt, c five, d bits, e two, f span, g felt[]);"
        "INSERT INTO t VALUES (1, 'good', 'bad', 'ab', B'101', '(1,good)', '[good,bad]', '{bad,NULL}');"
        "INSERT INTO t VALUES (2)"
    )
    lab.capture_and_compare("t")
    lab.execute("UPDATE t SET id = -id; INSERT INTO t SELECT id * 10, a, b, c, d, e, f, g FROM t")
    lab.capture_and_compare("t")
