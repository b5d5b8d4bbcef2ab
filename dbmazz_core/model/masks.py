"""Masking: what a column's values become before anybody behind the source sees them.

`hash` is HMAC-SHA-256 (RFC 2104) of PostgreSQL's text of the value under `MASK_KEY`, in lower-case hexadecimal: what
pgcrypto's `encode(hmac(v::text, key, 'sha256'), 'hex')` gives. Equal texts have equal hashes, so hashed keys still
identify rows and hashed columns still join. `truncate` leaves the first characters of the text, `null` leaves nothing.
NULL stays NULL.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from functools import cache

import duckdb
import polars as pl

from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.policies import Mask

_BLOCK_BYTES = 64
#: What stands for a masked value in messages.
HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Masker:
    """A mask, and what it needs to be applied.

    >>> Masker(Mask("truncate", 3)).text("Zürich".encode())
    'Zür'
    >>> len(Masker(Mask("hash"), "a secret").text(b"ann@example.com"))
    64

    Attributes:
        mask: Which.
        key: Secret of hashes; never shown.
    """

    mask: Mask
    key: str = field(default="", repr=False)

    def __str__(self) -> str:
        """What is recorded of it: `null`, `truncate:3`, or `hash:` and eight digits that tell one key from another."""
        if self.mask.kind != "hash":
            return str(self.mask)
        return f"hash:{hmac.digest(self.key.encode(), b'dbmazz mask key', 'sha256').hex()[:8]}"

    def type(self, type: DataType) -> DataType:
        """The masked column's type."""
        return type if self.mask.kind == "null" else DataType(Kind.STRING)

    def text(self, raw: bytes) -> str | None:
        """One value: the mask of PostgreSQL's text, None for `null`.

        Raises:
            UnicodeDecodeError: If it is to be truncated and is not UTF-8.
        """
        match self.mask.kind:
            case "null":
                return None
            case "hash":
                return hmac.digest(self.key.encode(), raw, "sha256").hex()
            case _:
                return raw.decode()[: self.mask.length]

    def column(self, values: pl.Series, type: DataType) -> pl.Series:
        """The mask of every value of a column.

        Args:
            values: PostgreSQL's texts, `String`; or `Binary`, which need not be UTF-8 to be hashed. Null stays null.
            type: The masked column's type (`Masker.type`).

        Returns:
            The column in the carrier dtype of `type`; when truncating, what is not UTF-8 becomes null.
        """
        match self.mask.kind:
            case "null":
                return pl.repeat(None, len(values), dtype=type.carrier, eager=True).alias(values.name)
            case "hash":
                return _hashed(values.cast(pl.Binary), self.key)
            case _:
                return utf8(values).str.slice(0, self.mask.length)


def utf8(values: pl.Series) -> pl.Series:
    """A `Binary` series as `String`; what is not UTF-8 becomes null."""
    if values.dtype == pl.String:
        return values
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        # Rare: from a database in SQL_ASCII. polars tells that there is one, not which.
        return pl.Series(values.name, [_decoded(raw) for raw in values.to_list()], dtype=pl.String)


def _decoded(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


def _hashed(values: pl.Series, key: str) -> pl.Series:
    """HMAC by its definition, over a whole column in DuckDB: no Python per value, and other threads go on.

    250,000 e-mail addresses: 0.35 s; hmac.digest one by one: 0.55 s, all of it under the interpreter's lock.
    """
    secret = key.encode()
    secret = hashlib.sha256(secret).digest() if len(secret) > _BLOCK_BYTES else secret
    secret = secret.ljust(_BLOCK_BYTES, b"\0")
    inner, outer = bytes(b ^ 0x36 for b in secret), bytes(b ^ 0x5C for b in secret)
    texts = values.alias("v").to_frame().to_arrow(compat_level=pl.CompatLevel.newest())  # noqa: F841 - DuckDB finds it
    with _calculator().cursor() as cursor:
        hashed = cursor.sql(
            "SELECT sha256(?::BLOB || unhex(sha256(?::BLOB || v))) AS h FROM texts", params=[outer, inner]
        ).to_arrow_table()
    series = pl.from_arrow(hashed["h"])
    assert isinstance(series, pl.Series)
    return series.cast(pl.String).alias(values.name)


@cache
def _calculator() -> duckdb.DuckDBPyConnection:
    """A database without data, for its functions; each use has a cursor of its own."""
    return duckdb.connect(":memory:")
