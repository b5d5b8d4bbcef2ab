"""The running shop of both forms of the demo: PostgreSQL with its tables, a directory, and the settings."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.demo.shop import TABLES, create_shop
from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.config import Settings

_DATABASE = "shop"


@dataclass(frozen=True, slots=True)
class RunningShop:
    """A running PostgreSQL with the shop's tables, before the first capture.

    Attributes:
        url: URL of the shop's database.
        directory: Directory for all files that the demo writes.
        postgres_version: Version of the server, such as `18.6`.
    """

    url: str
    directory: Path
    postgres_version: str

    @property
    def destination(self) -> Path:
        """Path of the DuckDB file, which the first capture creates."""
        return self.directory / "shop.duckdb"

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings as environment variables."""
        return {
            "SOURCE_URL": self.url,
            "TABLES": ", ".join(map(str, TABLES)),
            "SOURCE_SLOT_NAME": "shop",
            "SOURCE_PUBLICATION_NAME": "shop",
            "SINK_URL": str(self.destination),
            # The downstream asset also writes to the file, and the machine may be busy.
            "SINK_LOCK_TIMEOUT_S": "30",
        }

    @property
    def settings(self) -> Settings:
        """The settings as values."""
        return Settings.from_env(self.environment)


@contextmanager
def running_shop(keep: Path | None = None) -> Iterator[RunningShop]:
    """Start PostgreSQL and create the shop's tables. On exit, stop PostgreSQL and remove all files.

    Args:
        keep: A directory for the DuckDB file, Dagster's home and the logs, which are then kept. PostgreSQL's files are
            always removed.

    Raises:
        ConfigError: PostgreSQL's programs do not exist, or `keep` is not an empty directory.
    """
    with _directory(keep) as directory, EmbeddedPostgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {_DATABASE}")
        with psycopg.connect(server.url(_DATABASE), autocommit=True) as connection:
            create_shop(connection, random.Random())
        yield RunningShop(server.url(_DATABASE), directory, server.version)


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        directory = keep.absolute()
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            # The destination of an earlier demo belongs to the server of that demo.
            raise ConfigError(
                f"{directory} is not an empty directory", object="--keep", remedy="name a new directory: --keep DIR"
            )
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    directory = Path(tempfile.mkdtemp(prefix="dbmazz-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
