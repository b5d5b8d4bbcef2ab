"""Generate the tables of the documentation from the code: `python -m docs.reference` writes them into the pages.

A test compares the tables in the pages with the generated ones.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dbmazz_core import errors
from dbmazz_core.connectors.sources.postgres.types.reference import short_table, types_table
from dbmazz_core.settings.config import SETTINGS

_ROOT = Path(__file__).parents[1]
DOCUMENTS = (_ROOT / "docs" / "cli.md", _ROOT / "README.md")
_CONNECTOR = _ROOT / "dbmazz_core" / "connectors" / "sources" / "postgres"
TYPE_DOCUMENTS = (_ROOT / "docs" / "types.md", _CONNECTOR / "README.md")

#: The remedy by error class, in general terms; the error itself has the exact statement or command.
_REMEDIES: dict[type[errors.DbmazzError], str] = {
    errors.ConfigError: "correct the variable, flag or file key that the error names",
    errors.SourceError: "check PostgreSQL's log; run the command again",
    errors.ConnectionFailed: "check host and port in `SOURCE_URL`, and that PostgreSQL runs there",
    errors.AuthenticationFailed: "correct user, password and database in `SOURCE_URL`, or `ALTER ROLE ... PASSWORD`",
    errors.ReplicationInterrupted: "run the command again: it resumes at the checkpoint",
    errors.ServerChanged: "run the command again; if it fails again, put one server's host and port into `SOURCE_URL`",
    errors.SourceNotReady: "run the statement in the error",
    errors.UnsupportedServerVersion: "upgrade PostgreSQL",
    errors.WalLevelNotLogical: "`ALTER SYSTEM SET wal_level = 'logical';` and restart PostgreSQL",
    errors.NoFreeSlot: "drop an unused slot, or raise `max_replication_slots`",
    errors.NoFreeWalSender: "end another consumer, or raise `max_wal_senders`",
    errors.MissingPrivilege: "run the `GRANT` or `ALTER ROLE` in the error; `dbmazz check` lists all that are missing",
    errors.TableNotFound: "correct `TABLES`; the error lists the nearest names that exist",
    errors.TableNotSupported: "remove the table from `TABLES`",
    errors.TableLocked: "wait for the transaction that the error names, or end it",
    errors.ReplicaIdentityInsufficient: "`ALTER TABLE ... REPLICA IDENTITY FULL;`, or a primary key",
    errors.PublicationNotFound: "`dbmazz snapshot`: changes made meanwhile were not published",
    errors.PublicationLacksTable: "run the `ALTER PUBLICATION` in the error; `dbmazz snapshot` if changes were missed",
    errors.SlotError: "`dbmazz snapshot`",
    errors.SlotNotFound: "`dbmazz snapshot`: it creates the slot and re-snapshots the tables",
    errors.SlotActive: "wait, stop the process that the error names, or give this pipeline its own `SOURCE_SLOT_NAME`",
    errors.SlotMismatch: "choose another `SOURCE_SLOT_NAME`",
    errors.SlotLost: "`dbmazz teardown && dbmazz snapshot`; raise `max_slot_wal_keep_size`",
    errors.SlotAheadOfCheckpoint: "`dbmazz snapshot`; find the other consumer of the slot",
    errors.SlotCreationBlocked: "wait for the transaction that the error names, or end it",
    errors.ServerBehindCheckpoint: "re-snapshot all tables: `dbmazz snapshot`",
    errors.HistoryDiverged: "re-snapshot all tables: `dbmazz snapshot`",
    errors.WrongServer: "correct `SOURCE_URL`, or choose another `SINK_URL`",
    errors.DestinationError: "correct `SINK_URL`, or the permissions of the file and its directory",
    errors.DestinationLocked: "end the process that the error names, or wait (`SINK_LOCK_TIMEOUT_S`)",
    errors.DestinationConflict: "undo the change made by hand, or `dbmazz snapshot --tables ...`",
    errors.DiskFull: "free some space and run the command again",
    errors.DataError: "see the error; nothing was applied beyond the checkpoint",
    errors.ParseError: "report the error, with the server's version and the output of `dbmazz peek`",
    errors.BadValue: "change the value in PostgreSQL, then `dbmazz snapshot --tables ...`",
    errors.UnknownValue: "`dbmazz snapshot --tables ...`",
    errors.SchemaChanged: "`dbmazz snapshot --tables ...`",
}


def settings_table() -> str:
    """Return the table of settings: variable, flag, default, meaning. A key in a file is the variable in lower case."""
    rows = (
        (f"`{s.variable}`", f"`{s.flag}`", _default(s.default, required=s.required), s.help.replace("|", "\\|"))
        for s in SETTINGS
    )
    return _markdown(("variable", "flag", "default", "meaning"), rows)


def errors_table() -> str:
    """Return the table of errors: class, exit code, meaning, remedy."""
    rows = (
        (f"`{kind.__name__}`", str(kind.exit_code), _first_sentence(kind), _REMEDIES[kind]) for kind in error_classes()
    )
    return _markdown(("error", "exit code", "meaning", "what to do"), rows)


def error_classes() -> list[type[errors.DbmazzError]]:
    """Return all error classes except their root, in the order of `errors.py`, which is the order of the tree."""
    return [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.DbmazzError) and kind is not errors.DbmazzError
    ]


def filled_in(document: str) -> str:
    """Return a page with the tables between its markers, `<!-- settings -->` to `<!-- end -->`, generated again."""
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
    return text if text == "none" else f"`{text}`"


def _first_sentence(kind: type) -> str:
    text = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".").replace("|", "\\|")


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def lines() -> Iterator[str]:
        for row in (head, ("---",) * len(head), *rows):
            yield f"| {' | '.join(row)} |\n"

    return "".join(lines())


if __name__ == "__main__":
    for path in (*DOCUMENTS, *TYPE_DOCUMENTS):
        path.write_text(filled_in(path.read_text()))
