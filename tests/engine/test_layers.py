"""The engine and the pipeline know only the protocols of source and sink: their code names no product."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dbmazz_core

ROOT = Path(dbmazz_core.__file__).parent
FILES = [ROOT / "pipeline.py", *sorted((ROOT / "engine").rglob("*.py"))]
PRODUCTS = ("postgres", "duckdb")
WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def words(code: str) -> Iterator[str]:
    """Yield every identifier and string of a module; comments and docstrings are left out."""
    tree = ast.parse(code)
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, WITH_DOCSTRING) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if node in docstrings:
            continue
        for _, value in ast.iter_fields(node):
            yield from (word for word in (value if isinstance(value, list) else [value]) if isinstance(word, str))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_engine_names_no_product(file: Path) -> None:
    assert not [word for word in words(file.read_text()) if any(product in word.lower() for product in PRODUCTS)]


def test_words_are_names_attributes_imports_and_strings() -> None:
    code = "'doc'\nimport a.b as c\nfrom d import e\ndef f(g: str) -> None:\n    'doc'\n    h.i(j='k', l=f'm{n}')\n"
    found = {"a.b", "c", "d", "e", "f", "g", "str", "h", "i", "j", "k", "l", "m", "n"}
    assert {*words(code)} == found
