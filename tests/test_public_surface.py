"""What `import dbmazz_core` offers, and what it must not pull in."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import dbmazz_core
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import Lsn


def test_every_public_name_is_there_and_comes_from_where_type_checkers_look() -> None:
    """The names for type checkers, those that are imported lazily, and `__all__` are one list."""
    tree = ast.parse(Path(dbmazz_core.__file__).read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {*typed, "__version__"} == set(dbmazz_core.__all__)
    assert {name: f"dbmazz_core.{home}" for name, home in dbmazz_core._HOME.items()} == typed
    for name in dbmazz_core.__all__:
        assert getattr(dbmazz_core, name) is not None
    assert set(dbmazz_core.__all__) <= set(dir(dbmazz_core))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
        _ = dbmazz_core.Oracle


def test_the_version_is_that_of_the_distribution() -> None:
    assert dbmazz_core.__version__.count(".") == 2


def test_errors_cross_processes_whole() -> None:
    """Programs raise them in workers of their own."""
    error = ParseError("torn", message_type="I", offset=7, lsn=Lsn(16))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.offset, copy.lsn) == (ParseError, str(error), 7, Lsn(16))
    assert copy.to_dict() == error.to_dict()


def test_importing_the_package_is_cheap() -> None:
    assert not _imported("import dbmazz_core") & {"polars", "duckdb", "psycopg", "click", "rich", "dagster"}


def test_help_imports_nothing_heavy() -> None:
    heavy = {"polars", "duckdb", "pyarrow", "numpy", "adbc_driver_postgresql", "dagster", "rich"}
    for arguments in ("['--help']", "['capture', '--help']", "['--version']"):
        program = f"import io, sys; sys.stdout = io.StringIO(); import dbmazz_core.cli as c; c.main({arguments})"
        assert not _imported(program) & heavy


def test_capture_does_not_import_what_it_does_not_need() -> None:
    """Its start-up is part of every window."""
    assert not _imported("import dbmazz_core.cli.commands, dbmazz_core.pipeline") & {"dagster", "rich", "pandas"}


def test_the_engine_never_imports_dagster() -> None:
    program = """
import importlib, pkgutil, dbmazz_core
for module in pkgutil.walk_packages(dbmazz_core.__path__, "dbmazz_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    imported = _imported(program)
    assert {"polars", "duckdb"} <= imported
    assert "dagster" not in imported
    assert "dbmazz_dagster" not in imported


def _imported(program: str) -> set[str]:
    """Top-level packages that a program has imported at its end, in a fresh interpreter."""
    ending = "import json as j, sys as s; s.__stdout__.write(j.dumps(sorted({n.split('.')[0] for n in s.modules})))"
    run = subprocess.run([sys.executable, "-c", f"{program}\n{ending}"], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))
