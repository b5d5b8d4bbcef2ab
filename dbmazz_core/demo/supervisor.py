"""A server process that does not outlive the process that started it, even if that ends by `kill -9`.

The server is the child of a shell script, which holds the read end of a pipe. Only the starting process holds the write
end. When that process ends, in whatever way, the kernel closes the write end; the script then stops the server and
removes its files. A second pipe works in the other direction: every process of the server inherits its write end, so
its end-of-file means that the last process has ended.

PR_SET_PDEATHSIG is no alternative: the signal comes when the *thread* that forked ends, and only on Linux.

A child that the starting process creates by `os.fork` without exec, as multiprocessing's `fork` does, also holds the
write end of the first pipe: the server then lives as long as the last of these processes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: Arguments: the directory to remove, then the server's command line. Standard input: the pipe whose write end the
#: starting process holds. Standard output, later descriptor 3: the server's pid, then the end-of-file of its last
#: process. The server is a child of this shell, so that its pid cannot be reused before `wait` has returned. The second
#: `wait` returns 0 only if the watcher ended by itself, that is, if the starting process died: the shell then removes
#: the files, otherwise the starting process does.
_SCRIPT = """
directory=$1; shift
exec 3>&1 1>&2 4<&0 </dev/null
"$@" 4<&- &
server=$!
echo "$server" >&3
{ read -r _ <&4; kill -QUIT "$server"; true; } 2>/dev/null &
watcher=$!
wait "$server"; status=$?
kill "$watcher" 2>/dev/null
wait "$watcher" 2>/dev/null && rm -rf -- "$directory"
exit "$status"
"""

_ORPHANS_TIMEOUT_S = 1.0
_KILL_TIMEOUT_S = 15.0


class Supervised:
    """A running server and its processes.

    Args:
        command: Command line of the server, which must stay in the foreground and end on SIGQUIT.
        directory: Directory that is removed if this process dies, but not when the server ends.
        log: File to which the output of the server is appended.
        account: uid and gid to run as, None for the current account.
        environment: All environment variables of the server.

    Attributes:
        pid: Process id of the server's first process.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        directory: Path,
        log: Path,
        account: tuple[int, int] | None,
        environment: Mapping[str, str],
    ) -> None:
        uid, gid = account or (None, None)
        with log.open("ab") as output:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "supervisor", directory, *command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                user=uid,
                group=gid,
                extra_groups=None if uid is None else [],
                cwd="/",
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal does not reach the server
            )
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._life = self._shell.stdin
        self._processes = self._shell.stdout
        self.pid = int(self._processes.readline())

    @property
    def running(self) -> bool:
        """Whether the server's first process is running."""
        return self._shell.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's first process, if it is running."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait until every process of the server has ended, and return whether that happened in time."""
        if self._processes.closed:
            return True
        deadline = time.monotonic() + seconds
        try:
            self._shell.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(self._processes, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return False
        self._life.close()
        self._processes.close()
        return True

    def kill(self) -> None:
        """Send SIGKILL to the first process and, after a second, to its remaining children.

        Raises:
            TimeoutError: A process is still running 15 s after SIGKILL.
        """
        self.signal(signal.SIGKILL)
        if self.wait(_ORPHANS_TIMEOUT_S):
            return
        # PostgreSQL 14's autovacuum launcher can sleep for 20 s before it detects the death of its postmaster.
        for pid in self._orphans():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not self.wait(_KILL_TIMEOUT_S):
            raise TimeoutError(f"processes of server {self.pid} are still running after SIGKILL")

    def _orphans(self) -> Iterator[int]:
        """Yield the ids of all processes that inherited the second pipe, whatever their parent. Works on Linux only."""
        pipe = f"pipe:[{os.fstat(self._processes.fileno()).st_ino}]"
        for link in Path("/proc").glob("[0-9]*/fd/3"):
            # The process has ended meanwhile, or belongs to another account.
            with contextlib.suppress(OSError):
                if str(link.readlink()) == pipe:
                    yield int(link.parts[2])
