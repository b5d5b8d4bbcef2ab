"""The module search path of the Python processes that the demo starts.

Python puts the current directory first on `sys.path` (`python -m`), or an empty entry that stands for it (`python -c`,
an empty part of PYTHONPATH). A user's file `select.py` in that directory is then imported instead of the standard
module. `-P` (Python's manual, "Command line and environment") omits the directory. The child process must still find
the packages of its parent: installed, editable, in a source checkout or in a zip file. The child therefore gets the
parent's path, entry by entry.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

#: Top-level packages that the child imports. It must find them where the parent found them.
_REQUIRED = ("dbmazz_core", "numpy", "psycopg", "psycopg_binary", "psycopg_c", "typing_extensions")


def module_path() -> list[str]:
    """Return `sys.path` as absolute paths, without the current directory.

    If a required package is in the current directory, as in a source checkout, the current directory is the last entry:
    no file in it then hides a module of another directory.
    """
    here = os.path.realpath(os.curdir)
    entries = [entry for entry in sys.path if os.path.realpath(entry or os.curdir) != here]
    if len(entries) < len(sys.path) and here in _package_directories():
        entries.append(here)
    return [os.path.abspath(entry) for entry in entries]


def child_environment() -> dict[str, str]:
    """Return an environment with which neither a Python process nor its children import from the current directory."""
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(module_path())}


def _package_directories() -> Iterator[str]:
    """Yield the directories and zip files that hold the required packages."""
    for name in _REQUIRED:
        # find_spec does not import the module: an import would take as long as the start of the process.
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            package = origin.parent if spec.submodule_search_locations else origin
            yield os.path.realpath(package.parent)
