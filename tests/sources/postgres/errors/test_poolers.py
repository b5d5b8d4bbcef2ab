"""Poolers between dbmazz and PostgreSQL: those that cannot carry a capture are named as what they are.

PgBouncer itself is used where it is installed; a proxy stands in for one that drops or rewrites what poolers do.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbmazz_core.connectors.sources.postgres.connection import connect
from dbmazz_core.errors import ConnectionFailed, DbmazzError
from dbmazz_core.settings.secret_url import SecretUrl
from tests.support.lab import Lab
from tests.support.postgres_fixtures import SourceDatabase
from tests.support.rewriting_proxy import RewritingProxy, message

REMEDY = "put PostgreSQL's own host and port into SOURCE_URL"


@pytest.fixture
def lab(database: SourceDatabase, tmp_path: Path) -> Lab:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    return Lab(database, tmp_path / "d.duckdb")


def assert_named_a_pooler(lab: Lab, url: str, what: str) -> None:
    """By check and by capture; the printed remedy helps."""
    pooled = lab.configured(url=url)
    for act in (pooled.pipeline.check, pooled.capture):
        with pytest.raises(ConnectionFailed) as info:
            act()
        assert "is a connection pooler" in info.value.what
        assert what in info.value.what
        assert info.value.remedy == REMEDY
    lab.capture_and_compare("t")


def test_a_pooler_that_drops_replication(lab: Lab) -> None:
    with (
        RewritingProxy(lab.database.server, dropped=("replication",)) as proxy,
        pytest.raises(ConnectionFailed) as info,
    ):
        lab.configured(url=proxy.url(lab.database)).capture()
    assert "drops the option `replication`" in info.value.what
    assert info.value.remedy == REMEDY
    lab.capture_and_compare("t")


def test_a_proxy_that_invents_process_ids(lab: Lab) -> None:
    """For its own cancel requests; each connection has its own process, so nothing is wrong with it."""
    with RewritingProxy(
        lab.database.server,
        lambda kind, payload: message(kind, bytes([0, 0, 7, 7]) + payload[4:] if kind == b"K" else payload),
    ) as proxy:
        through = lab.configured(url=proxy.url(lab.database))
        through.capture()
        lab.execute("INSERT INTO t VALUES (2)")
        through.capture()
    lab.assert_equal("t")


# PgBouncer


@contextmanager
def pgbouncer(database: SourceDatabase, mode: str, ignored: str) -> Iterator[str]:
    """A PgBouncer in front of the server; the URL through it."""
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    server = database.server
    directory = Path(tempfile.mkdtemp(prefix="dbmazz-pool-"))
    directory.chmod(0o755)
    (directory / "users").write_text(f'"postgres" "{server.password}"\n')
    (directory / "ini").write_text(
        f"[databases]\n{database.name} = host={server.host} port={server.port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = plain\nauth_file = {directory}/users\n"
        f"pool_mode = {mode}\nignore_startup_parameters = extra_float_digits,options{ignored}\nunix_socket_dir =\n"
    )
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    process = subprocess.Popen(
        [program, "-q", directory / "ini"],
        user=account.pw_uid if account else None,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"postgresql://postgres:{server.password}@127.0.0.1:{port}/{database.name}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)
        shutil.rmtree(directory)


def test_pgbouncer_in_transaction_mode(lab: Lab) -> None:
    with pgbouncer(lab.database, "transaction", ",replication") as url:
        assert_named_a_pooler(lab, url, "the same server process")


@pytest.mark.parametrize("ignored", ["", ",replication"], ids=["refused", "dropped"])
def test_pgbouncer_in_session_mode(lab: Lab, ignored: str) -> None:
    with pgbouncer(lab.database, "session", ignored) as url:
        connect(SecretUrl(url)).close()
        with pytest.raises(DbmazzError) as info:
            lab.configured(url=url).capture()
        assert "is a connection pooler" in info.value.what
        assert info.value.remedy == REMEDY
