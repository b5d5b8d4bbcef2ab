"""`dagster dev` in a process group that does not outlive the process that started it.

`dagster dev` consists of web server, daemon, code server and one process for each run. All are in one process group. A
shell script leads the group and holds the read end of a pipe. Only the demo's process holds the write end. When that
process ends, in whatever way, the kernel closes the write end, and the script kills the whole group with itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from dbmazz_core.demo.module_path import child_environment
from dbmazz_core.errors import ConfigError, DbmazzError
from dbmazz_core.settings.variables import SETTINGS

_HOST = "127.0.0.1"
_PORT = 3000
#: Seconds that Dagster may take to stop after SIGINT.
_STOP_TIMEOUT_S = 3.0
_KILL_TIMEOUT_S = 0.5
_LOG_LINES = 15
_COLOUR = re.compile(r"\x1b\[[\d;]*m")

#: Standard input is the pipe whose write end the demo's process holds. Standard output has its end-of-file when Dagster
#: has ended. Argument 1 is a directory to remove if the demo's process ends; Dagster's command line follows. The script
#: catches the signals that the group gets, so that it lives as long as the group. Dagster starts with default handlers,
#: since a new program does not inherit signals that are caught (only those that are ignored).
_SCRIPT = """
directory=$1; shift
trap : INT TERM HUP
exec 4<&0 </dev/null
{
    trap '' INT TERM HUP
    read -r _ <&4
    rm -rf -- "$directory"
    kill -KILL 0
} >&2 &
watcher=$!
"$@" >&2 4<&-
exec >&2
while kill -0 "$watcher" 2>/dev/null; do wait "$watcher"; done
"""

#: Instance settings: no telemetry, no dialog at the first visit, and queued runs start within a second.
_INSTANCE = """\
telemetry:
  enabled: false
nux:
  enabled: false
run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
"""


class DagsterProcess:
    """Dagster's UI and daemon with the definitions of the demo, or of another module.

    Args:
        directory: Directory for DAGSTER_HOME and the log, in which Dagster's processes run.
        settings: The settings of the capture, by environment variable.
        module: The module with the definitions.
        port: Port of the UI; None for 3000, or a free port if 3000 is taken.
        remove: Directory that is removed if this process is killed, and only then.

    Raises:
        ConfigError: The port is taken.

    Attributes:
        url: URL of the UI.
        log: File with the output of Dagster's processes.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str],
        *,
        module: str = "dbmazz_dagster.demo",
        port: int | None = None,
        remove: Path | None = None,
    ) -> None:
        self._module = module
        self._port = _choose_port(port)
        self.url = f"http://{_HOST}:{self._port}"
        self.log = directory / "dagster.log"
        self._directory = directory
        self._environment = _environment(directory / "dagster_home", settings)
        self._remove = remove
        self._shell: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        home = Path(self._environment["DAGSTER_HOME"])
        home.mkdir()
        (home / "dagster.yaml").write_text(_INSTANCE)
        command = [sys.executable, "-P", "-m", "dagster", "dev", "--module-name", self._module]
        command += ["--host", _HOST, "--port", str(self._port)]
        with self.log.open("ab") as output:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "dagster-demo", str(self._remove or ""), *command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=self._directory,  # a directory without workspace.yaml and dagster.yaml
                env=self._environment,
                start_new_session=True,  # Ctrl-C in the terminal does not reach Dagster
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check(self) -> None:
        """Check that Dagster is running.

        Raises:
            DbmazzError: Dagster has ended.
        """
        if self._ended(0):
            raise self.failure("Dagster has ended unexpectedly")

    def failure(self, what: str) -> DbmazzError:
        """Return an error about Dagster, with the last lines of its log."""
        with contextlib.suppress(OSError):
            lines = _COLOUR.sub("", self.log.read_text(errors="replace")).splitlines()
            what += ":\n" + "\n".join(lines[-_LOG_LINES:])
        return DbmazzError(
            what, object="dagster dev", remedy="see its log above; `dbmazz demo --keep DIR` keeps the whole log"
        )

    def stop(self) -> None:
        """Stop all of Dagster's processes within four seconds. Does nothing if Dagster is not running."""
        shell, self._shell = self._shell, None
        if shell is None:
            return
        assert shell.stdin is not None
        assert shell.stdout is not None
        # To the whole group, as a terminal does. The group exists: its leader, the script, waits for this process.
        os.killpg(shell.pid, signal.SIGINT)
        _wait_for_end(shell.stdout.fileno(), _STOP_TIMEOUT_S)
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        shell.stdin.close()
        shell.stdout.close()
        deadline = time.monotonic() + _KILL_TIMEOUT_S
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(shell.pid, 0)
                time.sleep(0.02)

    def _ended(self, seconds: float) -> bool:
        if self._shell is None or self._shell.stdout is None:
            return True
        return _wait_for_end(self._shell.stdout.fileno(), seconds)


def _wait_for_end(pipe: int, seconds: float) -> bool:
    """Wait until no process holds the write end of the pipe, and return whether that happened in time."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def _environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of Dagster: the current one without variables that configure dbmazz or Dagster."""
    foreign = {setting.variable for setting in SETTINGS}
    inherited = {
        name: value
        for name, value in child_environment().items()
        if name not in foreign and not name.startswith(("DAGSTER_", "DBMAZZ_"))
    }
    return {
        **inherited,
        **settings,
        "DAGSTER_HOME": str(home),
        "DBMAZZ_SENSOR": "running",
        "DBMAZZ_SENSOR_INTERVAL_S": "5",
        "PYTHONUNBUFFERED": "1",
    }


def _choose_port(port: int | None) -> int:
    for candidate in (port,) if port is not None else (_PORT, 0):
        with socket.socket() as probe:
            # As web servers do: a port with connections in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigError(f"port {port} is taken", object="--port", remedy="name another port, or omit --port")
