"""Rules whose table is misspelled are errors with a suggestion, for every setting with rules by table."""

from __future__ import annotations

import pytest

from dbmazz_core.errors import ConfigError
from dbmazz_core.model.policies import BadValuePolicy, Mode
from dbmazz_core.settings.by_table import (
    parse_by_table,
    parse_column_masks,
    parse_column_names,
    parse_schema_policy,
)
from dbmazz_core.settings.config import TableConfig
from tests.support.lab import Lab

RULES = {
    "MODE": {"tables": TableConfig(mode=parse_by_table("MODE", "public.oders=soft_delete", Mode))},
    "ON_BAD_VALUE": {
        "tables": TableConfig(
            on_bad_value=parse_by_table("ON_BAD_VALUE", "quarantine, public.oders=error", BadValuePolicy)
        )
    },
    "SCHEMA_CHANGES": {
        "tables": TableConfig(schema_changes=parse_schema_policy("SCHEMA_CHANGES", "public.oders:drop_column=stop"))
    },
    "COLUMNS_EXCLUDE": {"source": {"exclude": parse_column_names("COLUMNS_EXCLUDE", "oders.note")}},
    "COLUMNS_INCLUDE": {"source": {"include": parse_column_names("COLUMNS_INCLUDE", "oders.id")}},
    "COLUMNS_AS_TEXT": {"source": {"as_text": parse_column_names("COLUMNS_AS_TEXT", "oders.id")}},
    "COLUMNS_MASK": {"source": {"masks": parse_column_masks("COLUMNS_MASK", "oders.note=null")}},
}


@pytest.fixture
def shop(lab: Lab) -> Lab:
    lab.execute("CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'a')")
    return lab


@pytest.mark.parametrize("variable", RULES)
def test_a_misspelled_table(shop: Lab, variable: str) -> None:
    wrong = shop.configured(**RULES[variable])
    for attempt in (wrong.capture, wrong.pipeline.snapshot):
        with pytest.raises(ConfigError, match=r"did you mean public\.orders\?") as caught:
            attempt()
        assert caught.value.object == variable
    wrong.assert_found_by_check(caught.value)
    shop.capture_and_compare("orders")
    with shop.nothing_changes("public.orders"), pytest.raises(ConfigError, match=variable):
        wrong.capture()


def policy(text: str) -> TableConfig:
    return TableConfig(schema_changes=parse_schema_policy("SCHEMA_CHANGES", text))


def test_a_misspelled_schema(shop: Lab) -> None:
    with pytest.raises(ConfigError, match=r"names pubic\.\*, which has no captured table; did you mean public\.\*\?"):
        shop.configured(tables=policy("pubic.*=stop")).capture()


def test_a_rule_for_a_table_that_was_dropped_does_not_stop_the_others(shop: Lab) -> None:
    shop = shop.configured(tables=policy("public.other:drop_column=stop, public.*=ignore"))
    shop.execute("CREATE TABLE other (id int PRIMARY KEY)")
    shop.capture()
    shop.transactions("DROP TABLE other", "INSERT INTO orders VALUES (2, 'b')")
    for _ in range(2):
        shop.capture_and_compare("orders")


def test_a_rule_does_not_lose_a_table_that_was_renamed(shop: Lab) -> None:
    ruled = shop.configured(tables=policy("public.orders:drop_column=stop"))
    ruled.capture()
    shop.execute("ALTER TABLE orders RENAME TO orders_2026")
    shop.capture()
    with pytest.raises(ConfigError, match=r"did you mean public\.orders_2026\?"):
        ruled.capture()
