"""A PostgreSQL server that offers TLS."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbmazz_core.demo.postgres import EmbeddedPostgres
from tests.support.postgres_fixtures import MATRIX_VARIABLE, UNSAFE_BUT_FAST

_FILES = Path(__file__).parent / "tls"


@contextmanager
def tls_server() -> Iterator[EmbeddedPostgres]:
    """Run a server of the matrix, since the default server is built without TLS."""
    binaries = os.environ.get(MATRIX_VARIABLE)
    if not binaries:
        pytest.skip(f"{MATRIX_VARIABLE} is not set; see `make test`")
    directory = Path(tempfile.mkdtemp(prefix="dbmazz-tls-"))
    try:
        directory.chmod(0o755)
        for name in ("server.crt", "server.key"):
            shutil.copy(_FILES / name, directory / name)
        is_root = os.geteuid() == 0
        (directory / "server.key").chmod(0o640 if is_root else 0o600)
        if is_root:  # PostgreSQL takes a key of root's that its own group may read
            shutil.chown(directory / "server.key", 0, _server_group())
        settings = UNSAFE_BUT_FAST | {
            "ssl": "on",
            "ssl_cert_file": str(directory / "server.crt"),
            "ssl_key_file": str(directory / "server.key"),
        }
        with EmbeddedPostgres(binaries=Path(binaries) / "16", settings=settings) as server:
            yield server
    finally:
        shutil.rmtree(directory)


def _server_group() -> int:
    """Return the group of the account under which a server of root's runs."""
    accounts = {account.pw_name: account.pw_gid for account in pwd.getpwall()}
    return accounts.get("postgres", accounts["nobody"])
