"""A file whose creation did not end is made anew; a damaged file is refused, with a remedy that works."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.connectors.sinks.duckdb import DuckDBSink
from dbmazz_core.connectors.sinks.duckdb.creation import create_file
from dbmazz_core.errors import DbmazzError, DestinationDamaged, TableNotFound
from dbmazz_core.settings.config import SinkConfig
from tests.cli.command import Dbmazz
from tests.support.lab import Lab

TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 5000) i"
)


@pytest.fixture
def empty(tmp_path: Path) -> bytes:
    """The content of an empty database, as DuckDB makes it."""
    path = tmp_path / "empty.duckdb"
    duckdb.connect(str(path)).close()
    return path.read_bytes()


@pytest.mark.parametrize("size", [0, 512, 4096, 4110, 8192, 12_000, 12_288])
def test_half_made_file_is_made_anew(lab: Lab, empty: bytes, size: int) -> None:
    lab.execute(TABLE)
    lab.path.write_bytes(empty[:size])
    assert lab.pipeline.check().ok
    assert lab.pipeline.status().checkpoint is None
    lab.capture_and_compare("t")
    assert [path.name for path in lab.path.parent.iterdir() if "dbmazz" in path.name] == []


def test_allocated_but_not_written_file_is_made_anew(lab: Lab) -> None:
    lab.execute(TABLE)
    lab.path.write_bytes(bytes(12_288))
    lab.capture_and_compare("t")


def _torn(path: Path) -> None:
    """A WAL with a broken record in its middle, and the file without what the WAL has."""
    with duckdb.connect(str(path)) as connection:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")
        connection.execute("CREATE TABLE more AS SELECT range AS i, md5(range::text) AS v FROM range(5000)")
    wal = path.with_name(path.name + ".wal")
    content = bytearray(wal.read_bytes())
    content[len(content) // 2] ^= 1
    wal.write_bytes(content)


def _rotten(path: Path) -> None:
    """A bit of each block's beginning is flipped."""
    content = bytearray(path.read_bytes())
    for position in range(3 * 4096 + 100, len(content), 1 << 18):
        content[position] ^= 1
    path.write_bytes(content)


def _header_rotten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 + 30] ^= 1
    content[2 * 4096 + 30] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut to its headers": lambda path: os.truncate(path, 3 * 4096),
    "garbage": lambda path: path.write_bytes(os.urandom(100_000)),
    "small garbage": lambda path: path.write_bytes(b"hello"),
    "torn WAL": _torn,
    "bit rot": _rotten,
    "bit rot in headers": _header_rotten,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_is_named_and_the_remedy_works(lab: Lab, damage: str) -> None:
    lab.execute(TABLE)
    lab.capture()
    DAMAGE[damage](lab.path)
    dbmazz = Dbmazz.of(lab.database, lab.path, lab.tables)
    dbmazz.variables["SOURCE_SLOT_NAME"] = lab.slot
    found = dbmazz.run("capture", "--json", code=6)
    assert (found.code, found.json["error"]) == (6, "DestinationDamaged")
    assert "is damaged, or is not a DuckDB file" in found.json["what"]
    _type(found.json["remedy"], dbmazz)
    lab.assert_equal("t")
    lab.execute("INSERT INTO t VALUES (0, 'later')")
    lab.capture_and_compare("t")


def _type(remedy: str, dbmazz: Dbmazz) -> None:
    """Run the commands of the remedy."""
    commands = remedy.partition(": ")[2].partition(". To keep")[0].split(" && ")
    assert commands[-1] == "dbmazz snapshot"
    for command in commands[:-1]:
        subprocess.run(shlex.split(command), check=True, cwd=dbmazz.directory)
    assert dbmazz.run("snapshot").code == 0


@pytest.mark.parametrize("size", [0, 4096, 8192])
def test_file_without_space_for_its_headers(lab: Lab, size: int) -> None:
    """A limit on the size of files stands for a full disk."""
    program = (
        "import resource, signal, sys\n"
        "from dbmazz_core.connectors.sinks.duckdb import DuckDBSink\n"
        "from dbmazz_core.errors import DiskFull\n"
        "from dbmazz_core.settings.config import SinkConfig\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "try: DuckDBSink(SinkConfig(url=sys.argv[1]), feed='s').begin()\n"
        "except DiskFull: sys.exit(6)\n"
    )
    lab.execute(TABLE)
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-B", "-c", program, str(lab.path)])
        assert ended.returncode == 6
    lab.capture_and_compare("t")


def test_process_killed_while_it_creates_the_file(lab: Lab) -> None:
    """Whatever a kill leaves, the next run goes on."""
    lab.execute(TABLE)
    program = (
        "import os, signal, sys\n"
        "from dbmazz_core.connectors.sinks.duckdb import creation\n"
        "from pathlib import Path\n"
        "def kill(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(os, sys.argv[2], kill)\n"
        "creation.create_file(Path(sys.argv[1]), 'v1.5.0')\n"
    )
    for step in ("pwrite", "fsync"):
        ended = subprocess.run([sys.executable, "-c", program, str(lab.path), step])
        assert ended.returncode == -signal.SIGKILL
        assert lab.path.exists()
        lab.capture_and_compare("t")
        lab.path.unlink()
        lab.pipeline.teardown()


def test_file_with_data_is_never_written_to(lab: Lab) -> None:
    lab.execute(TABLE)
    lab.capture()
    content = lab.path.read_bytes()
    assert not create_file(lab.path, "v1.5.0")
    assert lab.path.read_bytes() == content


def _labs(lab: Lab, count: int) -> list[Lab]:
    """Pipelines of a table each, into one file."""
    for number in range(count):
        lab.execute(f"CREATE TABLE s{number} (id int PRIMARY KEY); INSERT INTO s{number} SELECT generate_series(1, 99)")
    parts = [lab.configured(slot=f"{lab.slot}_{n}", source={"publication": f"{lab.slot}_{n}"}) for n in range(count)]
    for number, part in enumerate(parts):
        part.tables = f"public.s{number}"
    return parts


def test_threads_make_the_same_new_file(lab: Lab) -> None:
    parts = _labs(lab, 4)
    barrier = threading.Barrier(len(parts))

    def capture(part: Lab) -> None:
        barrier.wait()
        part.capture()

    with ThreadPoolExecutor(len(parts)) as threads:
        list(threads.map(capture, parts))
    for number, part in enumerate(parts):
        part.assert_equal(f"s{number}")


def test_processes_make_the_same_new_file(lab: Lab) -> None:
    parts = _labs(lab, 3)
    commands = []
    for part in parts:
        dbmazz = Dbmazz.of(lab.database, part.path, part.tables)
        dbmazz.variables |= {
            "SOURCE_SLOT_NAME": part.slot,
            "SOURCE_PUBLICATION_NAME": part.slot,
            "SINK_LOCK_TIMEOUT_S": "60",
        }
        commands.append(
            subprocess.Popen(
                dbmazz.command("capture"),
                env=dbmazz.environment,
                cwd=dbmazz.directory,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for command in commands:
        _, stderr = command.communicate()
        assert command.returncode == 0, stderr
    for number, part in enumerate(parts):
        part.assert_equal(f"s{number}")


def test_thread_that_fails_leaves_the_file_to_the_other(duckdb_path: Path) -> None:
    """The one that has created the file fails; the other one has written to it, or is about to."""
    config = SinkConfig(url=str(duckdb_path))
    first = DuckDBSink(config, feed="one")
    second = DuckDBSink(config, feed="two")
    for sink in (first, second):
        sink.begin().rollback()
    first.close()
    assert duckdb_path.exists()
    second.begin().commit()
    second.close()
    assert not duckdb_path.exists()  # nobody wrote anything


def test_run_that_fails_before_the_source_is_set_up_leaves_no_new_file(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with pytest.raises(TableNotFound):
        replace(lab, tables="missing").capture()
    assert not lab.path.exists()


def test_run_that_fails_in_the_first_copy_leaves_what_recognises_the_file(lab: Lab) -> None:
    """The slot serves this file from then on, also if the next run is on another host."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, d timestamp); INSERT INTO t VALUES (1, '294276-01-01')")
    with pytest.raises(DbmazzError) as caught:
        lab.capture()
    assert not isinstance(caught.value, DestinationDamaged)
    assert lab.rows("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'public'") == [(0,)]
    assert lab.rows("SELECT count(*) FROM _dbmazz.destination") == [(1,)]
    lab.execute("UPDATE t SET d = NULL")
    lab.capture_and_compare("t")
