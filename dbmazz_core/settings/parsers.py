"""Parsers of settings. A parser takes the variable's name, for its errors, and the text, and returns the value.

Every parser raises `ConfigError` for a text that it does not accept.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from dbmazz_core.errors import ConfigError

MEBIBYTE = 1 << 20


def invalid(variable: str, text: str, expected: str) -> ConfigError:
    """Return the error for a text that its variable does not accept; `expected` completes "is not ..."."""
    return ConfigError(
        f"{variable}={text!r} is not {expected}", object=variable, remedy=f"set {variable} to {expected}, or unset it"
    )


def one_of(*choices: str) -> Callable[[str, str], str]:
    """Return a parser that accepts one of some words, in upper or lower case."""

    def parse(variable: str, text: str) -> str:
        if text.strip().lower() not in choices:
            raise invalid(variable, text, " or ".join(choices))
        return text.strip().lower()

    return parse


def boolean(variable: str, text: str) -> bool:
    """Parse `true`, `1`, `yes` or `on`, and `false`, `0`, `no` or `off`, in upper or lower case.

    >>> boolean("DO_SNAPSHOT", "Yes")
    True
    """
    value = text.strip().lower()
    if value in ("true", "1", "yes", "on"):
        return True
    if value in ("false", "0", "no", "off"):
        return False
    raise invalid(variable, text, "true or false")


def whole_number(minimum: int, maximum: int = 1 << 62) -> Callable[[str, str], int]:
    """Return a parser of whole numbers from `minimum` to `maximum`.

    >>> whole_number(1)("FLUSH_SIZE", "250_000")
    250000
    """

    def parse(variable: str, text: str) -> int:
        digits = text.strip().replace("_", "")
        if not digits.isdecimal() or not minimum <= int(digits) <= maximum:
            upper = f" to {maximum}" if maximum < 1 << 62 else " or more"
            raise invalid(variable, text, f"a whole number, {minimum}{upper}")
        return int(digits)

    return parse


def seconds(variable: str, text: str) -> float:
    """Parse seconds, with or without a fraction."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise invalid(variable, text, "a number of seconds, 0 or more")
    return value


def address(variable: str, text: str) -> tuple[str, int]:
    """Parse host and port to listen on. The host must be given, so that nothing is open to others by mistake.

    >>> address("METRICS", "127.0.0.1:9187")
    ('127.0.0.1', 9187)
    """
    host, _, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise invalid(variable, text, "an address to listen on, such as 127.0.0.1:9187")
    return host, int(port)


_UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}


def byte_size(variable: str, text: str) -> int:
    """Parse a size such as `64MB`, at least 1 MB, into bytes. Units are powers of 1024.

    >>> byte_size("FLUSH_MAX_BYTES", "1.5GB")
    1610612736
    """
    number = text.strip().lower().replace("ib", "b")
    unit = number.lstrip("0123456789_.").strip()
    try:
        value = int(float(number.removesuffix(unit).strip()) * _UNITS[unit])
    except (ValueError, KeyError):
        value = 0
    if value < MEBIBYTE:
        raise invalid(variable, text, "a size of at least 1MB, such as 64MB or 1GB")
    return value


def storage_version(variable: str, text: str) -> str:
    """Parse a storage version of DuckDB: a version such as `v1.5.0`, or `latest`.

    >>> storage_version("SINK_STORAGE_VERSION", "1.5.0")
    'v1.5.0'
    """
    version = text.strip().lower().removeprefix("v")
    if version == "latest":
        return version
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise invalid(variable, text, "a version of DuckDB, such as v1.5.0, or latest")
    return f"v{version}"


def slot_name(variable: str, text: str) -> str:
    """Parse the name of a replication slot."""
    # The rule of PostgreSQL's ReplicationSlotValidateName: these characters, at most NAMEDATALEN - 1 bytes.
    if not 0 < len(text) < 64 or set(text) - set("abcdefghijklmnopqrstuvwxyz0123456789_"):
        raise invalid(variable, text, "a slot name: 1 to 63 lower-case letters, digits and underscores")
    return text


def identifier(variable: str, text: str) -> str:
    """Parse an SQL identifier, written without quotes."""
    if not 0 < len(text.encode()) < 64 or "\0" in text:
        raise invalid(variable, text, "a name of 1 to 63 bytes")
    return text


def duckdb_path(variable: str, text: str) -> str:
    """Parse the path of a DuckDB file, with or without `duckdb://` in front."""
    path = text.strip()
    scheme, separator, rest = path.partition("://")
    if separator and scheme != "duckdb":
        raise invalid(variable, text, "the path of a DuckDB file")
    path = rest if separator else path
    if not path or path == ":memory:":
        raise invalid(variable, text, "the path of a DuckDB file (a database in memory would forget its checkpoint)")
    return path
