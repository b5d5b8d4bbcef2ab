"""Commands that have to fail and change nothing, and others who are in their way."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbmazz_core.connectors.sources.postgres.connection import connect_replication
from dbmazz_core.settings.secret_url import SecretUrl
from tests.cli.command import Dbmazz
from tests.support.oracle import assert_equal
from tests.support.postgres_fixtures import SourceDatabase


@dataclass(frozen=True, slots=True)
class Failure:
    """What a command that failed has said."""

    kind: str
    what: str
    object: str
    remedy: str


def fails(dbmazz: Dbmazz, database: SourceDatabase, code: int, *arguments: str, **variables: str) -> Failure:
    """Run `capture`, which must fail, as text and as JSON, and change nothing."""
    before = _state(dbmazz, database)
    text = dbmazz.run("capture", *arguments, code=code, **variables)
    assert text.stdout == ""
    what, remedy = re.fullmatch(r"error: (.*?)\n  what to do: (.*)\n", text.stderr, re.DOTALL).groups()  # type: ignore[union-attr]
    described = dbmazz.json("capture", *arguments, code=code, **variables)
    assert set(described) == {"error", "what", "object", "remedy", "exit_code"}
    assert described["exit_code"] == code
    assert (_stable(described["what"]), _stable(described["remedy"])) == (_stable(what), _stable(remedy))
    assert _state(dbmazz, database) == before
    return Failure(described["error"], described["what"], described["object"], described["remedy"])


def _stable(text: str) -> str:
    return re.sub(r"\b\d+\b", "N", text)  # process ids and seconds differ from run to run


def _state(dbmazz: Dbmazz, database: SourceDatabase) -> dict[str, Any]:
    directory = Path(dbmazz.variables["SINK_URL"]).parent
    files = {path.name: path.read_bytes() for path in directory.glob("*")} if directory.is_dir() else None
    slots = database.fetch(
        "SELECT slot_name, confirmed_flush_lsn::text FROM pg_replication_slots WHERE database = current_database()"
    )
    publications = database.fetch("SELECT pubname FROM pg_publication ORDER BY 1")
    identities = database.fetch(
        "SELECT relname, relreplident FROM pg_class WHERE relkind = 'r' AND oid >= 16384 ORDER BY 1"
    )
    return {"files": files, "slots": slots, "publications": publications, "identities": identities}


def statements(remedy: str) -> list[str]:
    """The SQL statements in a remedy."""
    return re.findall(r"(?:ALTER|CREATE|DROP|GRANT|SELECT) [^;]*;", remedy)


def works(dbmazz: Dbmazz, database: SourceDatabase, *tables: str) -> None:
    """Capture works, and the destination is what the source is."""
    dbmazz.run("capture")
    for table in tables or ("public.orders",):
        assert_equal(database, Path(dbmazz.variables["SINK_URL"]), table)


@contextmanager
def role(database: SourceDatabase, password: str) -> Iterator[str]:
    """A role that can log in; yields its name."""
    name = f"cdc_{database.name}"
    database.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'")
    try:
        yield name
    finally:
        database.execute(f'REASSIGN OWNED BY "{name}" TO postgres; DROP OWNED BY "{name}"; DROP ROLE "{name}"')


@contextmanager
def walsender(database: SourceDatabase, application: str) -> Iterator[int]:
    """Somebody else who consumes the slot and acknowledges nothing; yields its server process."""
    stream = connect_replication(SecretUrl(database.url), application_name=application)
    try:
        options = f"proto_version '1', publication_names '{database.name}_pub'"
        stream.exec_(f"START_REPLICATION SLOT {database.name} LOGICAL 0/0 ({options})".encode())
        yield stream.backend_pid
    finally:
        stream.finish()


@contextmanager
def other_process(program: str) -> Iterator[int]:
    """A Python program that stays; yields its process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program}; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.communicate("\n", timeout=10)
