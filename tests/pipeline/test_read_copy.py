"""The read copy: published as a whole, at one LSN, for readers that keep it open."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.connectors.sinks.duckdb import read_copy as read_copies
from dbmazz_core.connectors.sinks.duckdb.reader import open_reader
from dbmazz_core.engine.result import WindowResult
from dbmazz_core.errors import (
    ConfigError,
    DestinationError,
    DestinationLocked,
    TableNotFound,
    TableNotStreaming,
)
from dbmazz_core.settings.config import Settings, SinkConfig
from tests.support.lab import Lab


@pytest.fixture
def shop(lab: Lab, tmp_path: Path) -> Lab:
    """Two captured tables, and a read copy of the destination."""
    (tmp_path / "copies").mkdir()
    lab = published(lab, read_copy=str(tmp_path / "copies" / "shop.read.duckdb"))
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY); "
        "INSERT INTO t VALUES (1, 'a'); INSERT INTO u VALUES (1)"
    )
    lab.capture()
    return lab


def published(lab: Lab, **options: object) -> Lab:
    sink = lab.settings.get("sink", SinkConfig(url=str(lab.path)))
    return lab.configured(sink=replace(sink, **options))


def copy_of(lab: Lab) -> Path:
    return Path(lab.settings["sink"].read_copy)


def ids(lab: Lab, table: str = "t") -> list[int]:
    with open_reader(lab.path, read_copy=copy_of(lab)) as reader:
        return sorted(reader.frame(table)["id"])


def in_directory(lab: Lab) -> list[str]:
    return sorted(path.name for path in copy_of(lab).parent.iterdir())


def error_of(result: WindowResult) -> DestinationError:
    assert result.read_copy is not None
    assert result.read_copy.error is not None
    return result.read_copy.error


def test_a_copy_has_all_tables_as_of_the_checkpoint(shop: Lab) -> None:
    shop.execute("INSERT INTO t VALUES (2, 'b'); INSERT INTO u VALUES (2)")
    result = shop.capture()
    assert result.read_copy is not None
    assert result.read_copy.lsn == result.end_lsn
    with open_reader(shop.path, read_copy=copy_of(shop)) as reader:
        assert reader.path == str(copy_of(shop))
        assert reader.lsns == {shop.slot: result.end_lsn}
        assert reader.published_at == result.read_copy.published_at
        assert reader.connection.execute("SELECT slot, lsn FROM _dbmazz.published").fetchall() == [
            (shop.slot, int(result.end_lsn))
        ]
    assert ids(shop) == ids(shop, "u") == [1, 2]
    assert in_directory(shop) == ["shop.read.duckdb"]


def test_a_reader_of_the_old_copy_goes_on_and_is_in_nobodys_way(shop: Lab) -> None:
    with open_reader(shop.path, read_copy=copy_of(shop)) as reader:
        shop.execute("INSERT INTO t VALUES (2, 'b')")
        shop.capture_and_compare("t")
        assert reader.frame("t")["id"].to_list() == [1]
        assert ids(shop) == [1, 2]


def test_a_window_without_changes_does_not_publish(shop: Lab) -> None:
    before = copy_of(shop).stat()
    first = shop.pipeline.capture().read_copy
    assert first is not None
    assert first.duration_s is None
    assert first.lsn == shop.checkpoint
    assert (copy_of(shop).stat().st_ino, copy_of(shop).stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_copy_is_kept_for_the_interval(shop: Lab) -> None:
    patient = published(shop, read_copy_interval_s=60.0)
    shop.execute("INSERT INTO t VALUES (2, 'b')")
    patient.capture()
    assert ids(shop) == [1]
    published(shop, read_copy_interval_s=0.01).capture()  # has no change itself
    assert ids(shop) == [1, 2]


def test_a_mart_of_somebody_else_is_published_with_the_next_window(shop: Lab) -> None:
    with duckdb.connect(str(shop.path)) as connection:
        connection.execute("CREATE SCHEMA marts; CREATE TABLE marts.daily AS SELECT 7 AS n")
    shop.capture()
    with open_reader(shop.path, read_copy=copy_of(shop)) as reader:
        assert reader.connection.execute("FROM marts.daily").fetchall() == [(7,)]


def test_a_snapshot_publishes_too(shop: Lab) -> None:
    shop.execute("INSERT INTO t VALUES (2, 'b')")
    result = shop.pipeline.snapshot([shop.ref("t")])
    assert result.read_copy is not None
    assert ids(shop) == [1, 2]


def test_the_wal_of_a_killed_writer_is_in_the_copy(shop: Lab) -> None:
    code = (
        "import sys, os, duckdb\n"
        "c = duckdb.connect(sys.argv[1])\n"
        "c.execute('CREATE TABLE late AS SELECT 5 AS n')\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(shop.path)], check=False)
    assert Path(f"{shop.path}.wal").exists()
    shop.capture()
    with open_reader(shop.path, read_copy=copy_of(shop)) as reader:
        assert reader.connection.execute("FROM late").fetchall() == [(5,)]


def test_the_copy_keeps_the_permissions(shop: Lab) -> None:
    shop.path.chmod(0o600)
    copy_of(shop).unlink()
    shop.capture()
    assert stat.S_IMODE(copy_of(shop).stat().st_mode) == 0o600
    copy_of(shop).chmod(0o640)  # for the analysts' group
    shop.execute("INSERT INTO t VALUES (2, 'b')")
    shop.capture()
    assert stat.S_IMODE(copy_of(shop).stat().st_mode) == 0o640


# -- crashes


@pytest.mark.parametrize("point", ["copied", "noted", "renaming"])
def test_a_kill_leaves_the_old_copy_and_the_next_window_publishes(shop: Lab, point: str) -> None:
    shop.execute("INSERT INTO t VALUES (2, 'b')")
    assert shop.pipeline.settings.sink.read_copy is not None
    child = os.fork()
    if child == 0:  # the engine has not run in this process yet but for the fixture, whose threads are gone
        patch = {
            "copied": (read_copies.ReadCopyPublisher, "_copy_file"),
            "noted": (Path, "chmod"),
            "renaming": (Path, "replace"),
        }[point]
        original = getattr(*patch)

        def and_die(*arguments: object) -> None:
            if point == "copied":
                original(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(*patch, and_die)
        read_copies.ReadCopyPublisher(shop.pipeline.settings.sink, shop.slot).publish()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL
    assert ids(shop) == [1]
    shop.capture()
    assert ids(shop) == [1, 2]
    assert in_directory(shop) == ["shop.read.duckdb"]


# -- bad input


def test_a_copy_that_cannot_be_written_is_told_and_nothing_is_lost(shop: Lab, tmp_path: Path) -> None:
    shop.execute("INSERT INTO t VALUES (2, 'b')")
    gone = published(shop, read_copy=str(tmp_path / "gone" / "shop.read.duckdb"))
    error = error_of(gone.capture())
    assert "No such file or directory; the DuckDB file has all changes" in error.what
    assert "SINK_READ_COPY" in error.remedy
    shop.assert_equal("t")
    (tmp_path / "gone").mkdir()
    result = gone.capture()
    assert result.read_copy is not None
    assert result.read_copy.error is None
    assert ids(gone) == [1, 2]


def test_a_full_disk_is_told(shop: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); import signal; "
    ignore = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    monkeypatch.setattr(read_copies, "_COPY", limit + ignore + read_copies._COPY)
    shop.execute("INSERT INTO t VALUES (2, 'b')")
    assert "File too large" in error_of(shop.capture()).what
    shop.assert_equal("t")
    assert ids(shop) == [1]
    assert in_directory(shop) == ["shop.read.duckdb"]


def test_a_file_that_somebody_writes_to_delays_the_copy(shop: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = published(shop, lock_timeout_s=0.1)
    shop.execute("INSERT INTO t VALUES (2, 'b')")
    publish = read_copies.ReadCopyPublisher.publish
    errors = []

    def beside_a_writer(self: read_copies.ReadCopyPublisher) -> object:
        code = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
        arguments = [sys.executable, "-c", code, str(shop.path)]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            found = publish(self)
            writer.communicate()
        errors.append(found.error)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(read_copies.ReadCopyPublisher, "publish", beside_a_writer)
        shop.capture()
    assert isinstance(errors[0], DestinationLocked)
    shop.capture()
    assert ids(shop) == [1, 2]


def test_another_file_with_the_name_is_replaced(shop: Lab) -> None:
    copy_of(shop).write_text("not a database")
    shop.capture()
    assert ids(shop) == [1]


def test_the_copy_must_be_another_file() -> None:
    env = {"SOURCE_URL": "postgres://localhost/shop", "TABLES": "t", "SINK_URL": "shop.duckdb"}
    with pytest.raises(ConfigError, match="are the same file") as info:
        Settings.from_env(env | {"SINK_READ_COPY": "./shop.duckdb"})
    assert info.value.object == "SINK_READ_COPY"


# -- open_reader


def test_a_reader_gives_frames_arrow_tables_and_relations(shop: Lab) -> None:
    with open_reader(shop.path) as reader:
        assert reader.published_at is None
        assert reader.lsn == shop.checkpoint
        assert reader.frame("public.t").rows() == [(1, "a")]
        assert reader.arrow("t").to_pylist() == [{"id": 1, "v": "a"}]
        assert reader.relation("t").filter("id = 1").fetchall() == [(1, "a")]


def test_a_reader_names_tables_that_there_are(shop: Lab) -> None:
    with open_reader(shop.path) as reader, pytest.raises(TableNotFound, match=r"did you mean public\.t") as info:
        reader.frame("public.tt")
    assert "choose from: public.t, public.u" in info.value.remedy


def test_a_reader_gives_no_rows_that_are_older_than_the_others_unless_told(shop: Lab) -> None:
    shop.pipeline.pause([shop.ref("t")])
    with open_reader(shop.path) as reader:
        with pytest.raises(TableNotStreaming, match="is paused; its rows are as of"):
            reader.frame("t")
        assert reader.frame("t", stale=True).rows() == [(1, "a")]
        assert reader.frame("u").rows() == [(1,)]


def test_a_reader_waits_for_a_writer_and_tells_who_it_is(shop: Lab) -> None:
    code = "import sys, time, duckdb; c = duckdb.connect(sys.argv[1]); print(flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", code, str(shop.path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(DestinationLocked, match=f"locked by process {writer.pid}"):
            open_reader(shop.path, timeout_s=0.1)
        started = time.monotonic()
        with open_reader(shop.path) as reader:
            assert reader.frame("t").height == 1
        assert time.monotonic() - started < 10


def test_a_file_that_is_missing_or_not_ours_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="does not exist"):
        open_reader(tmp_path / "none.duckdb")
    with duckdb.connect(str(tmp_path / "other.duckdb")) as connection:
        connection.execute("CREATE TABLE t (id INTEGER)")
    with pytest.raises(DestinationError, match="holds no captured tables"):
        open_reader(tmp_path / "other.duckdb")
