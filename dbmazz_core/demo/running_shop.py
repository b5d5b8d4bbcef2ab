"""What both forms of the demo stand on: a directory, a PostgreSQL with the shop in it, and the settings."""

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
    """A running shop, nothing captured yet.

    Attributes:
        url: The shop's database.
        directory: For whatever the demo writes; its own.
        postgres_version: As PostgreSQL writes it.
    """

    url: str
    directory: Path
    postgres_version: str

    @property
    def destination(self) -> Path:
        """The DuckDB file; the first capture creates it."""
        return self.directory / "shop.duckdb"

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings, as variables."""
        return {
            "SOURCE_URL": self.url,
            "TABLES": ", ".join(map(str, TABLES)),
            "SOURCE_SLOT_NAME": "shop",
            "SOURCE_PUBLICATION_NAME": "shop",
            "SINK_URL": str(self.destination),
            # The downstream asset writes to the file as well, on a machine that may be busy.
            "SINK_LOCK_TIMEOUT_S": "30",
        }

    @property
    def settings(self) -> Settings:
        """The settings, read."""
        return Settings.from_env(self.environment)


@contextmanager
def running_shop(keep: Path | None = None) -> Iterator[RunningShop]:
    """Start PostgreSQL and open the shop; at the end, stop it and remove everything.

    Parameters:
        keep: A directory for the DuckDB file, Dagster's home and the logs, which then stay. PostgreSQL's
            files go in any case.

    Raises:
        ConfigError: There is no PostgreSQL to start, or `keep` has something in it.
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
            # A destination from an earlier demo belongs to that demo's server.
            raise ConfigError(
                f"{directory} is not an empty directory", object="--keep", remedy="name a new one: --keep DIR"
            )
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    directory = Path(tempfile.mkdtemp(prefix="dbmazz-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
