"""The files of a private PostgreSQL cluster, and the account that its server runs as."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dbmazz_core.demo.binaries import BINARIES_VARIABLE, copy_installation, program_environment
from dbmazz_core.errors import ConfigError, ConnectionFailed

#: uid and gid.
Account = tuple[int, int]

#: `sun_path` has 108 bytes on Linux, 104 on macOS.
_SOCKET_PATH_LIMIT = 103
_LONGEST_SOCKET_NAME = ".s.PGSQL.65535"


def server_account() -> Account | None:
    """Return the account to run the server as, None for the current one. PostgreSQL refuses to run as root.

    Raises:
        ConfigError: The current account is root, and neither `postgres` nor `nobody` exists.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return account.pw_uid, account.pw_gid
    raise ConfigError(
        "PostgreSQL refuses to run as root, and neither account `postgres` nor `nobody` exists",
        object="account",
        remedy="run as another user, or create one: useradd --system postgres",
    )


def run_program(command: Sequence[Path | str], *, account: Account | None, environment: Mapping[str, str]) -> str:
    """Run a program to its end and return its standard output.

    Args:
        command: Program and arguments.
        account: The account to run as, None for the current one.
        environment: All environment variables of the program.

    Raises:
        ConnectionFailed: The exit code is not 0.
        PermissionError: The account cannot reach the program.
    """
    uid, gid = account or (None, None)
    answer = subprocess.run(
        command,
        user=uid,
        group=gid,
        extra_groups=None if uid is None else [],
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise ConnectionFailed(
            f"{Path(command[0]).name} failed: {answer.stderr.strip() or answer.returncode}",
            object=str(command[0]),
            remedy=f"use another PostgreSQL: set {BINARIES_VARIABLE}",
        )
    return answer.stdout


def create_directory(parent: Path | None, *, account: Account | None, environment: Mapping[str, str]) -> Path:
    """Create a directory that belongs to the server's account and that it can reach.

    Args:
        parent: The directory above, by default one for temporary files.
        account: The server's account, None for the current one.
        environment: Environment variables for the test whether the account can reach the directory.

    Raises:
        ConfigError: The account cannot reach the directory, or its path is too long for a Unix socket.
    """
    temporary = (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"))
    parents = [parent.absolute()] if parent else list(dict.fromkeys(temporary))
    for candidate in parents:
        candidate.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="dbmazz-pg-", dir=candidate))
        if account:
            os.chown(directory, *account)
        try:
            run_program(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(directory)], account=account, environment=environment)
        except ConnectionFailed:
            shutil.rmtree(directory)
            continue
        if len(os.fsencode(directory / _LONGEST_SOCKET_NAME)) > _SOCKET_PATH_LIMIT:
            shutil.rmtree(directory)
            continue
        return directory
    raise ConfigError(
        f"the server's account cannot reach {parents[0]}, or the path is too long for a Unix socket",
        object="data_parent",
        remedy="choose a short directory that every account can enter, such as one below /tmp",
    )


def create_cluster(
    directory: Path,
    data: Path,
    *,
    binaries: Path,
    account: Account | None,
    superuser: str,
    password: str,
    settings: Mapping[str, str],
) -> Path:
    """Create a cluster with initdb, and return the directory of the programs that the server's account can run.

    Args:
        directory: Directory of the server's account, from `create_directory`.
        data: The data directory to create.
        binaries: Directory of `initdb` and `postgres`. If the account cannot reach it, the programs are copied to `pg`
            in `directory`.
        account: The server's account, None for the current one.
        superuser: Role to create.
        password: Password of the role.
        settings: Lines of `postgresql.conf`.

    Raises:
        ConnectionFailed: A program failed.
    """
    programs, environment = binaries, program_environment(binaries)
    try:
        run_program([programs / "postgres", "--version"], account=account, environment=environment)
    except PermissionError:
        # For example in a virtual environment below /root, which the server's account cannot enter.
        programs = copy_installation(binaries, directory / "pg")
        environment = program_environment(programs)
    password_file = directory / "password"
    password_file.touch(0o600)
    if account:
        os.chown(password_file, *account)
    password_file.write_text(password)
    options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--no-sync"]
    options += [f"--username={superuser}", f"--pwfile={password_file}", f"--pgdata={data}"]
    run_program([programs / "initdb", *options], account=account, environment=environment)
    password_file.unlink()
    # In the file, not on the command line: ALTER SYSTEM cannot override the command line.
    with (data / "postgresql.conf").open("a") as file:
        for name, value in settings.items():
            quoted = value.replace("\\", "\\\\").replace("'", "''")
            file.write(f"{name} = '{quoted}'\n")
    return programs
