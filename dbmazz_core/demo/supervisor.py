"""A server process that never outlives the process that started it.

Not even one that ends by `kill -9`. (A signal asked for with PR_SET_PDEATHSIG would come when the *thread*
that forked ends, and only on Linux.) So the server is the child of a small shell script, which also holds
the reading end of a pipe. The writing end is ours alone; the kernel closes it when we end, however that
happens. The shell then stops the server and removes its files. A second pipe works the other way: every
process of the server inherits its writing end, so its end-of-file says that the last one is gone.

(A child that our process makes by `os.fork` without exec, as multiprocessing's `fork` does, holds the first
pipe too: then the server lives as long as the last of them.)
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

#: Arguments: the directory to remove, then the server's command line. Standard input: the pipe that ends
#: with our process. Standard output, later descriptor 3: the server's pid, then the end-of-file of its last
#: process. The server is this shell's child, so that its pid cannot become another process's before `wait`
#: has returned. The second `wait` is 0 only when the watcher ended by itself, that is, when we died: then
#: the files are the shell's to remove, else ours.
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
    """A running server, and whatever processes it makes.

    Parameters:
        command: The server's command line. It has to stay in the foreground and to end on SIGQUIT.
        directory: Removed when we die; not when the server ends.
        log: The file its output is appended to.
        account: uid and gid to run as, or None to run as ourselves.
        environment: All of its environment variables.
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
                start_new_session=True,  # Ctrl-C in the terminal is for us; we stop the server in our time
            )
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._life = self._shell.stdin
        self._processes = self._shell.stdout
        self.pid = int(self._processes.readline())

    @property
    def running(self) -> bool:
        """Whether the server's first process is there."""
        return self._shell.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's first process, if it is there."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait for the end of every process of the server. Returns whether it came in time."""
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
        """SIGKILL the first process, then, after a second, the others that have not noticed."""
        self.signal(signal.SIGKILL)
        if self.wait(_ORPHANS_TIMEOUT_S):
            return
        # PostgreSQL 14's autovacuum launcher can sleep for 20 s before it sees that its postmaster is gone.
        for pid in self._orphans():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not self.wait(_KILL_TIMEOUT_S):
            raise TimeoutError(f"processes of server {self.pid} are still there after SIGKILL")

    def _orphans(self) -> Iterator[int]:
        """Every process that inherited the second pipe, on Linux, whoever its parent is now."""
        pipe = f"pipe:[{os.fstat(self._processes.fileno()).st_ino}]"
        for link in Path("/proc").glob("[0-9]*/fd/3"):
            # Gone in the meantime, or another account's.
            with contextlib.suppress(OSError):
                if str(link.readlink()) == pipe:
                    yield int(link.parts[2])
