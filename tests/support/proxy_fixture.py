"""A TCP proxy in front of PostgreSQL that breaks and stalls connections on command."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import pytest

from dbmazz_core.demo.postgres import EmbeddedPostgres
from tests.support.postgres_fixtures import SourceDatabase

_CHUNK = 64 * 1024
#: SO_LINGER, on, 0 seconds: `close` sends RST and throws away what was not yet sent.
_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False, slots=True)
class _End:
    """One end of a proxied connection: its socket, and what is yet to be written to it."""

    socket: socket.socket
    peer: _End | None = None
    pending: bytearray = field(default_factory=bytearray)
    #: The peer has sent its last byte.
    finishing: bool = False
    #: Nothing is forwarded either way.
    stalled: bool = False


class Proxy:
    """Forwards a port of 127.0.0.1 to the server, in one thread.

    One thread owns all sockets: a socket closed by one thread while another is reading it stays open in the
    kernel, and no RST goes out.
    """

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.host, self.port = self._listener.getsockname()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._ends: dict[socket.socket, _End] = {}
        self._stalled = False
        self._commands: list[tuple[Callable[[], object], threading.Event]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def url(self, database: SourceDatabase | str = "postgres") -> str:
        """Superuser's URL of a database, through the proxy."""
        name = database if isinstance(database, str) else database.name
        direct = f"@{self._server.host}:{self._server.port}/"
        return self._server.url(name).replace(direct, f"@{self.host}:{self.port}/")

    @property
    def connections(self) -> int:
        """How many connections are being forwarded now."""
        return len(self._ends) // 2

    def cut(self) -> None:
        """Reset every connection, both ways, losing what is under way. New ones are accepted as before."""
        self._in_thread(self._reset_all)

    def lead_to(self, server: EmbeddedPostgres) -> None:
        """New connections go to another server, as behind a pooler that balances."""
        self._in_thread(lambda: setattr(self, "_server", server))

    def stall(self, *, new: bool = True) -> None:
        """Stop forwarding, without closing anything: a network that drops every packet.

        Args:
            new: Whether connections that are made from now on are stalled too.
        """
        self._in_thread(lambda: self._set_stalled(True, new))

    def resume(self) -> None:
        """Forward again; nothing was lost."""
        self._in_thread(lambda: self._set_stalled(False, False))

    def close(self) -> None:
        """Reset all connections and stop listening."""
        if not self._closed:
            self.cut()
            self._closed = True
            self._wake_writer.send(b"x")
            self._thread.join()

    def _in_thread(self, command: Callable[[], object]) -> None:
        done = threading.Event()
        self._commands.append((command, done))
        self._wake_writer.send(b"x")
        if not done.wait(10):
            raise TimeoutError("the proxy's thread does not answer")

    def _run(self) -> None:
        while not self._closed:
            for key, events in self._selector.select():
                if key.fileobj is self._wake_reader:
                    self._wake_reader.recv(_CHUNK)
                elif key.fileobj is self._listener:
                    self._accept()
                elif (end := self._ends.get(key.fileobj)) is not None:  # type: ignore[call-overload]
                    self._serve(end, events)
            while self._commands:
                command, done = self._commands.pop(0)
                command()
                done.set()
        for held in (self._selector, self._listener, self._wake_reader, self._wake_writer):
            held.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            upstream = socket.create_connection((self._server.host, self._server.port), timeout=5)
        except OSError:  # the server is down: the client sees a closed connection
            client.close()
            return
        ends = _End(client, stalled=self._stalled), _End(upstream, stalled=self._stalled)
        for end, peer in (ends, reversed(ends)):
            end.peer = peer
            end.socket.setblocking(False)
            end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends[end.socket] = end
        for end in ends:
            self._selector.register(end.socket, selectors.EVENT_READ)
            self._watch(end)

    def _serve(self, end: _End, events: int) -> None:
        peer = end.peer
        assert peer is not None
        try:
            if events & selectors.EVENT_WRITE and end.pending:
                del end.pending[: end.socket.send(end.pending)]
            if events & selectors.EVENT_READ:
                data = end.socket.recv(_CHUNK)
                peer.pending += data
                peer.finishing = peer.finishing or not data
        except BlockingIOError:
            pass
        except OSError:
            self._reset(end)
            self._reset(peer)
            return
        for one in (end, peer):
            if one.finishing and not one.pending:
                with contextlib.suppress(OSError):
                    one.socket.shutdown(socket.SHUT_WR)
        if all(one.finishing and not one.pending for one in (end, peer)):
            self._forget(end)
            self._forget(peer)
            return
        self._watch(end)
        self._watch(peer)

    def _watch(self, end: _End) -> None:
        """Wait for what can be forwarded: data while the other side takes them, room while data wait."""
        assert end.peer is not None
        events = 0
        if not end.stalled:
            if len(end.peer.pending) < _CHUNK and not end.peer.finishing:
                events |= selectors.EVENT_READ
            if end.pending:
                events |= selectors.EVENT_WRITE
        with contextlib.suppress(KeyError):
            self._selector.unregister(end.socket)
        if events:
            self._selector.register(end.socket, events)

    def _set_stalled(self, stalled: bool, new: bool) -> None:
        self._stalled = new
        for end in self._ends.values():
            end.stalled = stalled
            self._watch(end)

    def _reset_all(self) -> None:
        for end in list(self._ends.values()):
            self._reset(end)

    def _reset(self, end: _End) -> None:
        with contextlib.suppress(OSError):
            end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._forget(end)

    def _forget(self, end: _End) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(end.socket)
        self._ends.pop(end.socket, None)
        end.socket.close()


@pytest.fixture
def proxy(server: EmbeddedPostgres) -> Iterator[Proxy]:
    """A proxy in front of the shared server."""
    with Proxy(server) as proxy:
        yield proxy
