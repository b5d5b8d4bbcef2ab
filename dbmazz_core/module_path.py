"""The module path of Python processes that we start.

Python puts the current directory first on it (`python -m`), or an empty entry that stands for it (`python -c`, an empty
part of PYTHONPATH), and then a file of the user's called `select.py` is imported instead of the standard module. `-P`
(Python's manual, "Command line and environment") leaves it out. What the parent imported from still has to be found:
an installed package, an editable one, a source checkout, a zip file. So the parent's own path is passed on, entry by
entry.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

#: What the receiving process needs. Where these are found, there the parent found them.
_REQUIRED = ("dbmazz_core", "numpy", "psycopg", "psycopg_binary", "psycopg_c", "typing_extensions")


def module_path() -> list[str]:
    """`sys.path` in absolute paths, and without the current directory.

    If a package that we need lives there, as in a source checkout, the current directory is the last entry: nothing in
    it hides a module of another place.
    """
    here = os.path.realpath(os.curdir)
    entries = [entry for entry in sys.path if os.path.realpath(entry or os.curdir) != here]
    if len(entries) < len(sys.path) and here in _package_directories():
        entries.append(here)
    return [os.path.abspath(entry) for entry in entries]


def child_environment() -> dict[str, str]:
    """Ours, for a Python process that starts others of its own: none of them imports from the current directory."""
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(module_path())}


def _package_directories() -> Iterator[str]:
    """The directories, or zip files, with what we need."""
    for name in _REQUIRED:
        # Found, not imported: that would take as long as starting the process.
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            package = origin.parent if spec.submodule_search_locations else origin
            yield os.path.realpath(package.parent)
