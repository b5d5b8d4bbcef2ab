"""The examples in docstrings give the results that they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import dbmazz_core

MODULES = [
    "dbmazz_core",
    "dbmazz_dagster",
    *(m.name for m in pkgutil.walk_packages(dbmazz_core.__path__, "dbmazz_core.") if not m.name.endswith("__main__")),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_correct(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
