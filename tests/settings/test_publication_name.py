"""The name of a publication follows the slot, and PostgreSQL takes it as it is."""

from __future__ import annotations

import pytest

from dbmazz_core.settings.config import Settings
from dbmazz_core.settings.publication_name import default_publication


@pytest.mark.parametrize(
    ("slot", "name"),
    [
        ("dbmazz_slot", "dbmazz_pub"),
        ("shop", "shop_pub"),
        ("shop_slot", "shop_pub"),
        ("shop_slot_2", "shop_slot_2_pub"),
        ("_slot", "_pub"),
        ("s" * 59, "s" * 59 + "_pub"),
        ("s" * 58 + "_slot", "s" * 58 + "_pub"),
    ],
)
def test_names(slot: str, name: str) -> None:
    assert default_publication(slot) == name


def test_long_names_that_begin_alike_stay_apart() -> None:
    slots = ["s" * 60, "s" * 61, "s" * 62 + "1", "s" * 62 + "2", "s" * 63]
    names = {default_publication(slot) for slot in slots}
    assert len(names) == len(slots)
    assert {len(name) for name in names} == {63}
    assert all(name.endswith("_pub") for name in names)


def test_a_name_that_is_given_is_told_from_the_default() -> None:
    needed = {"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"}
    given = [
        Settings.from_env(needed | texts).source.publication
        for texts in ({}, {"SOURCE_PUBLICATION_NAME": ""}, {"SOURCE_PUBLICATION_NAME": "dbmazz_pub"})
    ]
    assert given == [None, None, "dbmazz_pub"]
