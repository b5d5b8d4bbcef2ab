"""A proxy in front of PostgreSQL that rewrites messages: a damaged line, a hostile server, or a pooler."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from dbmazz_core.demo.postgres import EmbeddedPostgres
from tests.support.postgres_fixtures import SourceDatabase

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104

#: From the type and the payload of a message of the server to the bytes that the client gets.
Rewrite = Callable[[bytes, bytes], bytes]


def message(kind: bytes, payload: bytes) -> bytes:
    """A message as it was."""
    return kind + (len(payload) + 4).to_bytes(4, "big") + payload


class RewritingProxy:
    """Forwards a port of 127.0.0.1 to the server, with a thread for each connection.

    Args:
        server: The server; connections to it are not encrypted.
        rewrite: Rewrites the messages of the server; may be replaced at any time.
        dropped: Names of startup parameters that do not reach the server.
        tls: Directory of `server.crt` and `server.key`, to encrypt connections of clients; None: no encryption.
    """

    def __init__(
        self,
        server: EmbeddedPostgres,
        rewrite: Rewrite = message,
        *,
        dropped: tuple[str, ...] = (),
        tls: Path | None = None,
    ) -> None:
        self.rewrite = rewrite
        self._server, self._dropped = server, dropped
        self._context = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(tls / "server.crt", tls / "server.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def url(self, database: SourceDatabase) -> str:
        """Superuser's URL of a database, through the proxy."""
        direct = f"@{self._server.host}:{self._server.port}/"
        options = "?sslmode=require" if self._context else ""
        return self._server.url(database.name).replace(direct, f"@{self.host}:{self.port}/") + options

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            startup = _counted(client)
            while len(startup) == 4 and (code := int.from_bytes(startup, "big")) in (_SSL_REQUEST, _GSS_REQUEST):
                encrypt = self._context is not None and code == _SSL_REQUEST
                client.sendall(b"S" if encrypt else b"N")
                if encrypt:
                    assert self._context is not None
                    client = self._context.wrap_socket(client, server_side=True)
                startup = _counted(client)
            upstream = socket.create_connection((self._server.host, self._server.port))
            for end in (client, upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open |= {client, upstream}
            upstream.sendall(_counted_bytes(self._startup(startup)))
            try:
                self._forward(client, upstream)
            finally:
                client.close()
                upstream.close()
                self._open -= {client, upstream}

    def _startup(self, packet: bytes) -> bytes:
        """Leave out dropped parameters. A cancel request has none."""
        if int.from_bytes(packet[:4], "big") >> 16 != 3:
            return packet
        fields = packet[4:].rstrip(b"\0").split(b"\0")
        kept = [
            name + b"\0" + value + b"\0"
            for name, value in zip(fields[::2], fields[1::2], strict=True)
            if name.decode() not in self._dropped
        ]
        return packet[:4] + b"".join(kept) + b"\0"

    def _forward(self, client: socket.socket, upstream: socket.socket) -> None:
        """Forward both ways until one end closes; in one thread, for OpenSSL serves only one of a connection."""
        received = b""
        while True:
            decrypted = isinstance(client, ssl.SSLSocket) and client.pending()
            ready = [client] if decrypted else select.select([client, upstream], [], [])[0]
            if client in ready:
                if not (data := client.recv(1 << 16)):
                    return
                upstream.sendall(data)
            if upstream in ready:
                if not (data := upstream.recv(1 << 16)):
                    return
                received += data
                while len(received) >= 5 and len(received) > (size := int.from_bytes(received[1:5], "big")):
                    client.sendall(self.rewrite(received[:1], received[5 : size + 1]))
                    received = received[size + 1 :]


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (got := source.recv(size - len(data))):
            raise EOFError
        data += got
    return data


def _counted(source: socket.socket) -> bytes:
    return _exactly(source, struct.unpack(">I", _exactly(source, 4))[0] - 4)


def _counted_bytes(packet: bytes) -> bytes:
    return struct.pack(">I", len(packet) + 4) + packet
