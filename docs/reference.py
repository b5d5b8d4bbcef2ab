"""The tables of the documents, made from the code: `python -m docs.reference` writes them.

A test compares them with what the files hold.
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

#: What to do, in general; the error itself has the exact statement or command.
_REMEDIES: dict[type[errors.DbmazzError], str] = {
    errors.ConfigError: "correct the variable, flag or file key that it names",
    errors.SourceError: "look at PostgreSQL's log; run it again",
    errors.ConnectionFailed: "check host and port in `SOURCE_URL`, and that PostgreSQL runs there",
    errors.AuthenticationFailed: "correct user, password and database in `SOURCE_URL`, or `ALTER ROLE ... PASSWORD`",
    errors.ReplicationInterrupted: "run it again: it resumes at the checkpoint",
    errors.ServerChanged: "run it again; if it comes again, put one server's host and port into `SOURCE_URL`",
    errors.SourceNotReady: "the statement in the error",
    errors.UnsupportedServerVersion: "upgrade PostgreSQL",
    errors.WalLevelNotLogical: "`ALTER SYSTEM SET wal_level = 'logical';` and restart PostgreSQL",
    errors.NoFreeSlot: "drop a slot that nobody needs, or raise `max_replication_slots`",
    errors.NoFreeWalSender: "end another consumer, or raise `max_wal_senders`",
    errors.MissingPrivilege: "the `GRANT` or `ALTER ROLE` in the error; `dbmazz check` lists all that are missing",
    errors.TableNotFound: "correct `TABLES`; the error has the nearest names that exist",
    errors.TableNotSupported: "leave it out of `TABLES`",
    errors.TableLocked: "wait for the transaction that it names, or end it",
    errors.ReplicaIdentityInsufficient: "`ALTER TABLE ... REPLICA IDENTITY FULL;`, or a primary key",
    errors.PublicationNotFound: "`dbmazz snapshot`: what changed meanwhile was not published",
    errors.PublicationLacksTable: "the `ALTER PUBLICATION` in the error; `dbmazz snapshot` if changes were missed",
    errors.SlotError: "`dbmazz snapshot`",
    errors.SlotNotFound: "`dbmazz snapshot`: it creates the slot anew and copies the tables again",
    errors.SlotActive: "wait, stop the process that it names, or give this pipeline its own `SOURCE_SLOT_NAME`",
    errors.SlotMismatch: "choose another `SOURCE_SLOT_NAME`",
    errors.SlotLost: "`dbmazz teardown && dbmazz snapshot`; raise `max_slot_wal_keep_size`",
    errors.SlotAheadOfCheckpoint: "`dbmazz snapshot`; find out who else used the slot",
    errors.SlotCreationBlocked: "wait for the transaction that it names, or end it",
    errors.ServerBehindCheckpoint: "copy all tables anew: `dbmazz snapshot`",
    errors.HistoryDiverged: "copy all tables anew: `dbmazz snapshot`",
    errors.WrongServer: "correct `SOURCE_URL`, or choose another `SINK_URL`",
    errors.DestinationError: "correct `SINK_URL`, or the permissions of file and directory",
    errors.DestinationLocked: "close the process that it names, or wait (`SINK_LOCK_TIMEOUT_S`)",
    errors.DestinationConflict: "undo the change made by hand, or `dbmazz snapshot --tables ...`",
    errors.DiskFull: "free some space and run it again",
    errors.DataError: "nothing was applied beyond the checkpoint; the error says more",
    errors.ParseError: "report it, with the server's version and the output of `dbmazz peek`",
    errors.BadValue: "change the value in PostgreSQL, then `dbmazz snapshot --tables ...`",
    errors.UnknownValue: "`dbmazz snapshot --tables ...`",
    errors.SchemaChanged: "`dbmazz snapshot --tables ...`",
}


def settings_table() -> str:
    """Every setting: variable, flag, default, meaning. The key in a file is the variable in lower case."""
    rows = (
        (f"`{s.variable}`", f"`{s.flag}`", _default(s.default, required=s.required), s.help.replace("|", "\\|"))
        for s in SETTINGS
    )
    return _markdown(("variable", "flag", "default", "meaning"), rows)


def errors_table() -> str:
    """Every error: class, exit code, meaning, remedy."""
    rows = (
        (f"`{kind.__name__}`", str(kind.exit_code), _first_sentence(kind), _REMEDIES[kind]) for kind in error_classes()
    )
    return _markdown(("error", "exit code", "meaning", "what to do"), rows)


def error_classes() -> list[type[errors.DbmazzError]]:
    """All errors but their root, in the order of the module, which is that of their tree."""
    return [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.DbmazzError) and kind is not errors.DbmazzError
    ]


def filled_in(document: str) -> str:
    """A document with the tables between its markers, `<!-- settings -->` to `<!-- end -->`, made anew."""
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
