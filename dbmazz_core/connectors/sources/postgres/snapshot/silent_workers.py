"""End connections of the copy that have gone silent: ADBC waits for the server in C, without a limit of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from dbmazz_core.connectors.sources.postgres import silence
from dbmazz_core.forks import detach_in_forks

#: Lists the descriptors of this process, on Linux and macOS.
_DESCRIPTORS = "/dev/fd"


class Socket(NamedTuple):
    """A connected TCP socket of this process."""

    descriptor: int
    inode: int
    peer_port: int


class SilentWorkers:
    """Watches the connections of snapshot workers, see `silence`.

    Args:
        conninfo: Connection string that leads to the same server.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._port = str(conninfo_to_dict(conninfo).get("port") or os.environ.get("PGPORT") or 5432)
        self._sockets: dict[int, socket.socket] = {}
        self._descriptors: set[int] = set()
        detach_in_forks(self, lambda workers: [*workers._descriptors, *(s.fileno() for s in workers._sockets.values())])
        self._seen: dict[int, silence.ProcessState] = {}

    def add(self, pid: int, connected: set[Socket]) -> None:
        """Watch a connection.

        Args:
            pid: Its server process.
            connected: `network_sockets` just before it was made. If several to the server are new, it is not watched.
        """
        new = [found for found in network_sockets() - connected if str(found.peer_port) == self._port]
        if len(new) == 1:
            descriptor = new[0].descriptor
            self._descriptors.add(descriptor)
            self._sockets[pid] = socket.socket(fileno=os.dup(descriptor))

    def close(self) -> None:
        """Forget all connections."""
        for connection in self._sockets.values():
            connection.close()
        self._sockets.clear()
        self._descriptors.clear()

    def end_dead(self) -> None:
        """Shut down the connections on which nothing can come any more; the reads on them fail.

        Called after each `SILENCE_LIMIT_S` in which no worker delivered rows. A connection is dead if its process has
        ended, or waits for its client and has sent nothing since the last call. A slow network is not: the process
        goes on as the network takes its bytes.
        """
        for pid, connection in self._sockets.items():
            try:
                state = silence.process_state(self._conninfo, pid)
            except psycopg.Error as error:
                dead = silence.is_unreachable(error)
            else:
                dead = state is None or (state.waits_for_client and state == self._seen.get(pid))
                if state is not None:
                    self._seen[pid] = state
            if dead:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def network_sockets() -> set[Socket]:
    """Return the connected TCP sockets of this process; none where the system lists none."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(_DESCRIPTORS):
            with contextlib.suppress(OSError):
                status = os.fstat(int(name))
                if not stat.S_ISSOCK(status.st_mode):
                    continue
                with socket.socket(fileno=os.dup(int(name))) as copy:
                    if copy.family in (socket.AF_INET, socket.AF_INET6):
                        found.add(Socket(int(name), status.st_ino, copy.getpeername()[1]))
    return found
