"""docs/cli.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from dbmazz_core.cli.report import BROKEN_PIPE, INTERRUPTED, TABLES_IN_TROUBLE
from dbmazz_core.cli.table_commands import dbmazz
from dbmazz_core.settings.variables import SETTINGS
from docs.reference import DOCUMENTS, TYPE_DOCUMENTS, error_classes, filled_in

DOCUMENT = DOCUMENTS[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_in_the_documents_are_current(document: Path) -> None:
    """If this fails: python -m docs.reference."""
    text = document.read_text()
    assert filled_in(text) == text
    for setting in SETTINGS:
        assert f"| `{setting.variable}` | `{setting.flag}` |" in text
    for kind in error_classes():
        assert f"| `{kind.__name__}` | {kind.exit_code} |" in text


@pytest.mark.parametrize("document", TYPE_DOCUMENTS, ids=lambda path: path.name)
def test_the_type_tables_in_the_documents_are_current(document: Path) -> None:
    """If this fails: python -m docs.reference."""
    text = document.read_text()
    assert filled_in(text) == text
    for name in ("boolean", "numeric(p,s)", "time with time zone", "interval", "oid"):
        assert f"| `{name}` |" in text


def test_every_command_and_exit_code_is_documented() -> None:
    text = DOCUMENT.read_text()
    for name in dbmazz.list_commands(click.Context(dbmazz)):
        assert f"| `{name}` |" in text
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert documented == {0, 1, TABLES_IN_TROUBLE, INTERRUPTED, BROKEN_PIPE} | {
        kind.exit_code for kind in error_classes()
    }
