"""Generate the tables of the documents from the code: `python -m docs.reference` writes them into the files.

A test compares the generated tables with the files.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dbmazz_core import errors
from dbmazz_core.connectors.sources.postgres.types.reference import short_table, types_table
from dbmazz_core.settings.variables import SETTINGS

_ROOT = Path(__file__).parents[1]
DOCUMENTS = (_ROOT / "docs" / "cli.md", _ROOT / "README.md")
_CONNECTOR = _ROOT / "dbmazz_core" / "connectors" / "sources" / "postgres"
TYPE_DOCUMENTS = (_ROOT / "docs" / "types.md", _CONNECTOR / "README.md")
_REMEDY = "What to do: "
#: Defaults that are no values.
_WORDS = ("none", "from the slot", "a share")


def settings_table() -> str:
    """Return the table of all settings: variable, flag, default, meaning. Keys of files are variables in lower case."""
    rows = (
        (f"`{s.variable}`", f"`{s.flag}`", _default(s.default, required=s.required), s.help.replace("|", "\\|"))
        for s in SETTINGS
    )
    return _markdown(("variable", "flag", "default", "meaning"), rows)


def errors_table() -> str:
    """Return the table of all errors: class, exit code, meaning, remedy."""
    rows = ((f"`{kind.__name__}`", str(kind.exit_code), *_meaning_and_remedy(kind)) for kind in error_classes())
    return _markdown(("error", "exit code", "meaning", "what to do"), rows)


def error_classes() -> list[type[errors.DbmazzError]]:
    """Return all error classes but `DbmazzError`, in the order of the module, which is the order of the tree."""
    return [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.DbmazzError) and kind is not errors.DbmazzError
    ]


def filled_in(document: str) -> str:
    """Return a document whose tables, between markers such as `<!-- settings -->` and `<!-- end -->`, are generated."""
    tables = {"settings": settings_table, "errors": errors_table, "types": types_table, "types in short": short_table}
    return re.sub(
        rf"(<!-- ({'|'.join(tables)}) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{tables[match[2]]()}{match[3]}",
        document,
        flags=re.DOTALL,
    )


def _default(text: str, *, required: bool) -> str:
    if required:
        return "required"
    return text if text in _WORDS else f"`{text}`"


def _meaning_and_remedy(kind: type) -> tuple[str, str]:
    """Return the first sentence of an error's docstring, and its paragraph `What to do: ...`."""
    meaning, remedy, *_ = (" ".join(part.split()) for part in (inspect.getdoc(kind) or "").split("\n\n"))
    if not remedy.startswith(_REMEDY):
        raise ValueError(f"the second paragraph of {kind.__name__} does not begin with {_REMEDY!r}")
    cells = (meaning.split(". ")[0], remedy.removeprefix(_REMEDY))
    return cells[0].rstrip(".").replace("|", "\\|"), cells[1].rstrip(".").replace("|", "\\|")


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def lines() -> Iterator[str]:
        for row in (head, ("---",) * len(head), *rows):
            yield f"| {' | '.join(row)} |\n"

    return "".join(lines())


if __name__ == "__main__":
    for path in (*DOCUMENTS, *TYPE_DOCUMENTS):
        path.write_text(filled_in(path.read_text()))
