"""The code blocks of the documentation run against a real server, a real DuckDB file and a real Dagster instance.

README.md, the tutorial (docs/index.md) and docs/dagster.md must run completely: each block either runs here, or the
page marks it with `<!-- not run: reason -->`. Blocks run as they stand in the page, except that the URL of the test's
database replaces the `SOURCE_URL` of the example.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from dbmazz_core.settings.variables import SETTINGS
from tests.docs.blocks import Block, find_blocks, read_blocks
from tests.support.oracle import assert_equal
from tests.support.postgres_fixtures import SourceDatabase

TUTORIAL = "docs/index.md"
SESSIONS = ("README.md", TUTORIAL)
COMPLETE = (*SESSIONS, "docs/dagster.md")
#: Only the Python blocks of this page run.
SOURCE_README = "dbmazz_core/connectors/sources/postgres/README.md"

EXAMPLE_URL = "postgres://user@host:5432/shop"
TABLES = ("public.orders", "public.customers")
#: Default of the setting: the examples name no slot.
SLOT = "dbmazz_slot"
TIMEOUT_S = 60.0


def runner(block: Block) -> str | None:
    """Return how a block is run by the tests below; None if no test runs it."""
    if block.not_run is not None:
        return None
    match block.language:
        case "bash" | "sql" if block.page in SESSIONS:
            return "session"
        case "python" if "dg.Definitions" in block.text:
            return "definitions"
        case "python" if "create_source" in block.text:
            return "library"
        case "yaml" if block.text.startswith("ops:"):
            return "run configuration"  # of test_definitions
    return None


def blocks_for(name: str) -> list[Block]:
    """Return the blocks that a test runs; of equal Python blocks in several pages, the first."""
    found = [block for page in (*COMPLETE, SOURCE_README) for block in read_blocks(page) if runner(block) == name]
    first = {block.text: block for block in reversed(found) if block.language == "python"}
    return [block for block in found if first.get(block.text, block) is block]


@pytest.mark.parametrize("page", COMPLETE)
def test_every_block_is_run_or_marked(page: str) -> None:
    blocks = read_blocks(page)
    forgotten = [str(block) for block in blocks if block.not_run is None and runner(block) is None]
    assert blocks
    assert not forgotten, f"neither run nor marked with <!-- not run: reason -->: {', '.join(forgotten)}"


def test_marks_belong_to_the_next_block_only() -> None:
    page = "<!-- not run: starts a server -->\n```bash\nmake demo\n```\n\n```python\n1 / 0\n```\n"
    assert [(block.language, block.not_run) for block in find_blocks("page", page)] == [
        ("bash", "starts a server"),
        ("python", None),
    ]
    for malformed in ("text\n\n    dbmazz capture\n", "```bash\ndbmazz capture\n"):
        with pytest.raises(ValueError, match="page:"):
            list(find_blocks("page", malformed))


@pytest.fixture
def shop(database: SourceDatabase) -> SourceDatabase:
    """The tables of the tutorial, made by its first SQL block."""
    database.execute(next(block.text for block in read_blocks(TUTORIAL) if block.language == "sql"))
    return database


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A directory with the commands `dbmazz` and `duckdb`.

    DuckDB's command line is not among the dependencies; its Python package runs the query instead.
    """
    directory = tmp_path / "bin"
    directory.mkdir()
    query = "import sys, duckdb; print(duckdb.connect(sys.argv[1], read_only=True).sql(sys.argv[2]))"
    for name, arguments in {"dbmazz": ("-m", "dbmazz_core.cli"), "duckdb": ("-c", query)}.items():
        command = directory / name
        command.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *arguments])} "$@"\n')
        command.chmod(0o755)
    return directory


def environment(**variables: str) -> dict[str, str]:
    """Return the process environment with these variables, without settings and libpq variables of the outside."""
    settings = {setting.variable for setting in SETTINGS}
    return {k: v for k, v in os.environ.items() if k not in settings and not k.startswith("PG")} | variables


class Session:
    """A shell session: blocks run one after the other in one directory, and exported variables stay.

    Args:
        directory: Working directory.
        variables: The environment at the start.
    """

    def __init__(self, directory: Path, variables: Mapping[str, str]) -> None:
        self._directory = directory
        self._variables = dict(variables)

    def run(self, block: Block, text: str) -> None:
        """Run a block; every command of it must succeed."""
        kept = self._directory / "environment"
        process = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{text}\nenv -0 > {shlex.quote(str(kept))}"],
            cwd=self._directory,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert process.returncode == 0, f"{block} failed with code {process.returncode}\n{process.stdout}"
        entries = kept.read_text().split("\0")
        self._variables = dict(entry.split("=", 1) for entry in entries if entry)


@pytest.mark.parametrize("page", SESSIONS)
def test_session(page: str, database: SourceDatabase, tmp_path: Path, commands: Path) -> None:
    """The shell and SQL blocks of a page, in order. After each capture both tables equal their source."""
    blocks = [block for block in blocks_for("session") if block.page == page]
    if page != TUTORIAL:
        database.execute(next(block.text for block in read_blocks(TUTORIAL) if block.language == "sql"))
    session = Session(tmp_path, environment(PATH=f"{commands}{os.pathsep}{os.environ['PATH']}"))
    captures = 0
    for block in blocks:
        if block.language == "sql":
            database.execute(block.text)
            continue
        session.run(block, block.text.replace(EXAMPLE_URL, shlex.quote(database.url)))
        if "dbmazz capture" in block.text:
            captures += 1
            for table in TABLES:
                assert_equal(database, tmp_path / "shop.duckdb", table)
    assert captures == {"README.md": 1, TUTORIAL: 2}[page]
    if "dbmazz teardown" in "".join(block.text for block in blocks):
        assert not database.fetch("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", SLOT)
        assert not database.fetch("SELECT 1 FROM pg_publication")


@pytest.fixture
def dagster_project(shop: SourceDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceDatabase:
    """A working directory and the environment that the Dagster examples assume."""
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.setenv("SOURCE_URL", shop.url)
    monkeypatch.setenv("TABLES", ",".join(TABLES))
    return shop


@pytest.mark.parametrize("block", blocks_for("definitions"), ids=str)
def test_definitions(
    block: Block, dagster_project: SourceDatabase, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A Python block that defines `defs`: the definitions load, and a run of all assets captures both tables.

    A run of `build_definitions` takes the run configuration of docs/dagster.md, which names its op.
    """
    definitions = _execute(block)["defs"]
    dg.Definitions.validate_loadable(definitions)
    (configuration,) = blocks_for("run configuration")
    run_config = yaml.safe_load(configuration.text) if "build_definitions" in block.text else None
    job = definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance, run_config=run_config).success
    for table in TABLES:
        assert_equal(dagster_project, tmp_path / "dbmazz.duckdb", table)


def _execute(block: Block) -> dict[str, Any]:
    """Execute a block as a module and return its names.

    The `from __future__` imports of this file do not apply to it: Dagster reads annotations as objects.
    """
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block.text, str(block), "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize("block", blocks_for("library"), ids=str)
def test_library(block: Block, shop: SourceDatabase, tmp_path: Path) -> None:
    """A Python block that iterates over `records()` without end: it confirms the changes that it receives."""
    program = tmp_path / "example.py"
    program.write_text(block.text)
    process = subprocess.Popen(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=environment(SOURCE_URL=shop.url, TABLES=",".join(TABLES)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        slots = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND "
        _wait_until(lambda: shop.fetch(slots + "active", SLOT), process)
        shop.execute("INSERT INTO customers VALUES (3, 'Edsger')")
        ((position,),) = shop.fetch("SELECT pg_current_wal_flush_lsn()::text")
        shop.execute("UPDATE customers SET name = 'E. W.' WHERE id = 3; DELETE FROM customers WHERE id = 3")
        _wait_until(lambda: shop.fetch(slots + "confirmed_flush_lsn >= %s::pg_lsn", SLOT, position), process)
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert "KeyboardInterrupt" in output
    if "print(" in block.text:
        assert "Edsger" in output


def _wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until a condition holds, while a process runs."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, "the program ended"
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.05)
