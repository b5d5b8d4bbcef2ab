"""The settings by table and by column: what they mean, how they are written, and what is no rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbmazz_core.errors import ConfigError
from dbmazz_core.model.policies import BadValuePolicy, Mask, Mode, SchemaAction, SchemaChangeKind
from dbmazz_core.settings.by_table import (
    ByTable,
    ColumnMasks,
    ColumnNames,
    SchemaPolicy,
    parse_by_table,
    parse_column_masks,
    parse_column_names,
    parse_schema_policy,
)
from dbmazz_core.settings.tables import TablePattern
from dbmazz_core.table_ref import ColumnRef, TableRef

T, U, SALES = TableRef("public", "t"), TableRef("public", "u"), TableRef("sales", "t")


def modes(text: str) -> ByTable[Mode]:
    return parse_by_table("MODE", text, Mode)


def policy(text: str) -> SchemaPolicy:
    return parse_schema_policy("SCHEMA_CHANGES", text)


def names(text: str) -> ColumnNames:
    return parse_column_names("COLUMNS_EXCLUDE", text)


def masks(text: str) -> ColumnMasks:
    return parse_column_masks("COLUMNS_MASK", text)


@pytest.mark.parametrize(
    ("text", "of_t", "of_u", "of_sales"),
    [
        ("soft_delete", "soft_delete", "soft_delete", "soft_delete"),
        ("t=changelog", "changelog", "mirror", "mirror"),
        ("SOFT_DELETE, public.t = Changelog , sales.*=mirror", "changelog", "soft_delete", "mirror"),
        ("public.t=changelog, public.*=soft_delete", "changelog", "soft_delete", "mirror"),  # whatever their order
        ("public.*=soft_delete, public.t=changelog", "changelog", "soft_delete", "mirror"),
    ],
)
def test_the_most_particular_rule_counts(text: str, of_t: str, of_u: str, of_sales: str) -> None:
    assert [modes(text).of(table) for table in (T, U, SALES)] == [of_t, of_u, of_sales]


def test_the_policy_of_schema_changes() -> None:
    rules = policy("ignore, drop_column=stop, public.t:change_type=stop, sales.*=apply, sales.t:add_column=ignore")
    assert rules.of(U, SchemaChangeKind.ADD_COLUMN) is SchemaAction.IGNORE
    assert rules.of(U, SchemaChangeKind.DROP_COLUMN) is SchemaAction.STOP
    assert rules.of(T, SchemaChangeKind.CHANGE_TYPE) is SchemaAction.STOP
    assert rules.of(T, SchemaChangeKind.RENAME_TABLE) is SchemaAction.IGNORE
    assert rules.of(SALES, SchemaChangeKind.DROP_COLUMN) is SchemaAction.APPLY
    assert rules.of(SALES, SchemaChangeKind.ADD_COLUMN) is SchemaAction.IGNORE
    assert policy("apply").of(T, SchemaChangeKind.ADD_COLUMN) is SchemaAction.APPLY


def test_columns_and_masks() -> None:
    listed = names('t.a, public.t.B, sales.t."Top ""Secret"", 1", "my schema".t.x')
    assert listed.of(T) == {"a", "b"}
    assert listed.of(SALES) == {'Top "Secret", 1'}
    assert listed.of(TableRef("my schema", "t")) == {"x"}
    masked = masks('t.a=hash, t."B"=truncate:12, sales.t.c = null')
    assert masked.of(T) == {"a": Mask("hash"), "B": Mask("truncate", 12)}
    assert masked.of(SALES) == {"c": Mask("null")}
    assert masked.of(U) == {}


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (modes, "", "a rule is missing"),
        (modes, "mirror,", "a rule is missing"),
        (modes, ",mirror", "cannot read"),
        (modes, "mirrored", "'mirrored' is not one of mirror, soft_delete, changelog"),
        (modes, "t=mirrored", "'mirrored' is not one of"),
        (modes, "t:x=mirror", "t:x is not a table name"),
        (modes, "a.b.c=mirror", "a.b.c is not a table name"),
        (modes, "*.t=mirror", r"\*.t is not a table name"),
        (modes, "t=", "cannot read"),
        (modes, "t==mirror", "cannot read"),
        (modes, '"t=mirror', "cannot read"),
        (modes, "mirror soft_delete", "cannot read"),
        (policy, "t:drop_column", "t:drop_column has no action"),
        (policy, "t:drop=stop", "'drop' is not one of add_column"),
        (policy, "drop_column=maybe", "'maybe' is not one of apply, ignore, stop"),
        (policy, "stop it", "cannot read"),
        (names, "t", "t is not a column name"),
        (names, "t.*", r"t.\* is not a column name"),
        (names, "d.s.t.c", "d.s.t.c is not a column name"),
        (names, "t.c=hash", "t.c is not followed by a comma"),
        (names, "t.c:x", "t.c is not followed by a comma"),
        (masks, "t.c", "must be followed by =hash"),
        (masks, "t.c=md5", "must be followed by =hash"),
        (masks, "t.c=hash:3", "must be followed by =hash"),
        (masks, "t.c=truncate", "must be followed by =hash"),
        (masks, "t.c=truncate:-1", "cannot read"),
        (masks, "t.c=truncate:x", "must be followed by =hash"),
        (masks, "t=hash", "t is not a column name"),
    ],
)
def test_what_is_no_rule_is_an_error_that_names_the_variable(
    read: Callable[[str], object], text: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        read(text)
    assert error.value.object in ("MODE", "SCHEMA_CHANGES", "COLUMNS_EXCLUDE", "COLUMNS_MASK")
    assert error.value.object in error.value.what
    assert error.value.remedy


identifiers = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
tables = st.builds(TableRef, identifiers, identifiers)
patterns = st.builds(TablePattern, identifiers, st.none() | identifiers)
columns = st.builds(ColumnRef, tables, identifiers)
mask_values = st.sampled_from([Mask("hash"), Mask("null")]) | st.builds(Mask, st.just("truncate"), st.integers(0, 99))


def _by_table(values: Any) -> st.SearchStrategy[ByTable[Any]]:
    member = st.sampled_from(list(values))
    return st.builds(ByTable, member, st.lists(st.tuples(patterns, member), max_size=4).map(tuple))


kinds, actions = st.sampled_from(list(SchemaChangeKind)), st.sampled_from(list(SchemaAction))
#: A general rule stands first, if there is one; that everything is applied goes without saying.
policies = st.builds(
    lambda first, rest: SchemaPolicy((*first, *rest)),
    st.lists(st.tuples(st.none(), st.none(), st.sampled_from([SchemaAction.STOP, SchemaAction.IGNORE])), max_size=1),
    st.lists(st.tuples(st.none(), kinds, actions) | st.tuples(patterns, st.none() | kinds, actions), max_size=4),
)


@given(_by_table(Mode), _by_table(BadValuePolicy), policies)
def test_rules_by_table_are_read_as_they_are_written(
    mode: ByTable[Mode], bad: ByTable[BadValuePolicy], rules: SchemaPolicy
) -> None:
    assert modes(str(mode)) == mode
    assert parse_by_table("ON_BAD_VALUE", str(bad), BadValuePolicy) == bad
    assert policy(str(rules)) == rules


@given(
    st.lists(columns, min_size=1, max_size=4, unique=True),
    st.dictionaries(columns, mask_values, min_size=1, max_size=4),
)
def test_columns_are_read_as_they_are_written(listed: list[ColumnRef], masked: dict[ColumnRef, Mask]) -> None:
    assert names(str(ColumnNames(tuple(listed)))) == ColumnNames(tuple(listed))
    assert masks(str(ColumnMasks(masked))) == ColumnMasks(masked)
