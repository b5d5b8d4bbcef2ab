"""Messages of the server's protocol between CopyData: which may come in a stream, and whether they are what they say.

A CopyData whose type byte was damaged must not pass for one of them and be skipped with its row. (PostgreSQL manual,
"Message Formats" and "Message Flow", protocol-flow.)
"""

from __future__ import annotations

from struct import Struct

from dbmazz_core.connectors.sources.postgres.parser.parser import Buffer
from dbmazz_core.connectors.sources.postgres.replication.copy_data import MESSAGE_MAX_BYTES, TOO_LONG
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import INVALID_LSN

#: What may come: CopyData, ErrorResponse, ReadyForQuery, NoticeResponse, ParameterStatus, CopyDone, CommandComplete.
#: Not NotificationResponse, as the connection has never run LISTEN.
_KINDS = "dEZNScC"
#: Types of messages that may be longer than `_SHORT_MAX` (fe-protocol3.c, VALID_LONG_MESSAGE_TYPE).
_LONG_KINDS, _SHORT_MAX = "dEN", 30_000
#: Types behind which no CopyData comes.
ENDS = "EcCZ"
#: What is wrong with a message of another type.
NO_SUCH_MESSAGE = "no message that a server sends in a stream"
_LENGTH = Struct(">I")


def verify_length(buffer: Buffer, begin: int) -> int:
    """Return the length of the message that begins at `begin`, verified before anybody waits for its end.

    Raises:
        ParseError: No message of this type has such a length, or a stream has no messages of this type.
    """
    kind, length = chr(buffer[begin]), int(_LENGTH.unpack_from(buffer, begin + 1)[0])
    if kind not in _KINDS:
        raise ParseError(NO_SUCH_MESSAGE, message_type=kind, offset=0, lsn=INVALID_LSN)
    if length >= MESSAGE_MAX_BYTES:
        raise ParseError(TOO_LONG, message_type=kind, offset=1, lsn=INVALID_LSN)
    if length < _LENGTH.size or (kind not in _LONG_KINDS and length > _SHORT_MAX):
        raise ParseError(f"impossible length {length}", message_type=kind, offset=1, lsn=INVALID_LSN)
    return length


def verify_payload(kind: str, payload: bytes, *, stream_ended: bool) -> None:
    """Verify that a message other than CopyData is what its type says.

    Args:
        kind: Its type.
        payload: What follows its length.
        stream_ended: Whether the stream was ended by a message of `ENDS`.

    Raises:
        ParseError: It is not.
    """
    match kind:
        case "E" | "N":
            valid = {"S", "C", "M"} <= error_fields(payload).keys()
        case "S":  # name, value
            valid = payload.count(b"\0") == 2 and payload[-1:] == b"\0" and payload[:1] != b"\0"
        case "Z":  # idle, in a transaction, in a failed transaction
            valid = stream_ended and payload in (b"I", b"T", b"E")
        case "c":
            valid = not payload
        case _:  # CommandComplete: the command's name
            valid = payload.find(b"\0") == len(payload) - 1 and payload[:-1].decode("latin-1").isprintable()
    if not valid:
        raise ParseError(NO_SUCH_MESSAGE, message_type=kind, offset=0, lsn=INVALID_LSN)


def error_fields(payload: bytes) -> dict[str, str]:
    """Return the fields of an ErrorResponse or NoticeResponse by their codes; none if it is no such message."""
    *fields, last, rest = payload.split(b"\0") if payload.endswith(b"\0\0") else [b"", b"?", b"?"]
    if last or rest or not all(fields):
        return {}
    return {chr(field[0]): field[1:].decode("utf-8", "replace") for field in fields}
