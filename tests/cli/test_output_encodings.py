"""Output that cannot hold a name: escapes, on both streams, in text and JSON, instead of an error after the work."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Dbmazz
from tests.support.lab import variant
from tests.support.postgres_fixtures import SourceDatabase

NAME = "naïve 表 😀"
COMMANDS = (("check",), ("capture",), ("status",), ("peek",), ("snapshot", "-vv"))


@pytest.fixture
def dbmazz(database: SourceDatabase, duckdb_path: Path) -> Dbmazz:
    database.execute(f"""CREATE TABLE "{NAME}" (id int PRIMARY KEY, "ü" text); INSERT INTO "{NAME}" VALUES (1, 'ß')""")
    return Dbmazz.of(database, duckdb_path, "public.*")


@pytest.mark.parametrize("encoding", ["ascii:strict", variant("ascii"), variant("cp1252"), variant("utf-8")])
def test_every_command_ends_well(dbmazz: Dbmazz, database: SourceDatabase, encoding: str) -> None:
    dbmazz.variables["PYTHONIOENCODING"] = encoding
    codec, shown = encoding.partition(":")[0], False
    for number, command in enumerate(COMMANDS):
        database.execute(f"""INSERT INTO "{NAME}" VALUES ({number + 2}, 'é')""")
        process = dbmazz.start(*command)
        stdout, stderr = _decoded(process, codec)
        assert process.returncode == 0, stderr
        assert "unexpected" not in stdout + stderr
        shown |= NAME.encode(codec, "backslashreplace").decode(codec) in stdout
    assert shown


@pytest.mark.parametrize("encoding", ["cp1252", variant("ascii"), variant("utf-8")])
def test_json_is_json(dbmazz: Dbmazz, database: SourceDatabase, encoding: str) -> None:
    dbmazz.variables["PYTHONIOENCODING"] = encoding
    for command in ("check", "capture", "status", "snapshot"):
        process = dbmazz.start(command, "--json")
        stdout, stderr = _decoded(process, encoding)
        assert process.returncode == 0, stderr
        result = json.loads(stdout)
        if command in ("capture", "status", "snapshot"):
            assert NAME in str(result)
    database.execute(f"""INSERT INTO "{NAME}" VALUES (2, 'é')""")
    stdout, _ = _decoded(dbmazz.start("peek", "--json"), encoding)
    assert NAME in str([json.loads(line) for line in stdout.splitlines()])


@pytest.mark.parametrize("json_flag", [(), variant(("--json",))])
def test_error_with_a_name(dbmazz: Dbmazz, json_flag: tuple[str, ...]) -> None:
    dbmazz.variables |= {"PYTHONIOENCODING": "ascii:strict", "TABLES": "public.größe"}
    process = dbmazz.start("capture", *json_flag)
    stdout, stderr = _decoded(process, "ascii")
    assert process.returncode == 4, stdout + stderr
    assert "gr\\" in stdout + stderr


def _decoded(process: subprocess.Popen[str], codec: str) -> tuple[str, str]:
    """Both outputs, which must be in the encoding."""
    for stream in (process.stdout, process.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(encoding=codec)
    stdout, stderr = process.communicate(timeout=90)
    return stdout, stderr
