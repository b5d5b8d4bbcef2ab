"""Masks: they replace the values of a column inside the source, before any other part of the program gets them.

- `hash` is HMAC-SHA-256 (RFC 2104) of PostgreSQL's text of the value under `MASK_KEY`, in lower-case hexadecimal. It is
  the result of pgcrypto's `encode(hmac(v::text, key, 'sha256'), 'hex')`. Equal texts have equal hashes, so hashed keys
  still identify rows and hashed columns still join.
- `truncate` keeps the first characters of the text.
- `null` keeps nothing.

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
#: The text in messages in place of a masked value.
HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Masker:
    """A mask with its key.

    >>> Masker(Mask("truncate", 3)).text("Zürich".encode())
    'Zür'
    >>> len(Masker(Mask("hash"), "a secret").text(b"ann@example.com"))
    64

    Attributes:
        mask: The mask.
        key: The secret key of hashes; it is never shown.
    """

    mask: Mask
    key: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Return the recorded text: `null`, `truncate:3`, or `hash:` with eight digits that depend on the key."""
        if self.mask.kind != "hash":
            return str(self.mask)
        return f"hash:{hmac.digest(self.key.encode(), b'dbmazz mask key', 'sha256').hex()[:8]}"

    def type(self, type: DataType) -> DataType:
        """Return the type of the masked column."""
        return type if self.mask.kind == "null" else DataType(Kind.STRING)

    def text(self, raw: bytes) -> str | None:
        """Return the masked value for PostgreSQL's text of a value; None for `null`.

        Raises:
            UnicodeDecodeError: The text is to be truncated and is not UTF-8.
        """
        match self.mask.kind:
            case "null":
                return None
            case "hash":
                return hmac.digest(self.key.encode(), raw, "sha256").hex()
            case _:
                return raw.decode()[: self.mask.length]

    def column(self, values: pl.Series, type: DataType) -> pl.Series:
        """Return the masked values of a column.

        Args:
            values: PostgreSQL's texts, `String` or `Binary`. `Binary` need not be UTF-8 to be hashed. Null stays null.
            type: The masked column's type (`Masker.type`).

        Returns:
            The column in the carrier dtype of `type`. `truncate` makes texts null that are not UTF-8.
        """
        match self.mask.kind:
            case "null":
                return pl.repeat(None, len(values), dtype=type.carrier, eager=True).alias(values.name)
            case "hash":
                return _hashed(values.cast(pl.Binary), self.key)
            case _:
                return utf8(values).str.slice(0, self.mask.length)


def utf8(values: pl.Series) -> pl.Series:
    """Return a `Binary` series as `String`; texts that are not UTF-8 become null."""
    if values.dtype == pl.String:
        return values
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        # Only from a database in SQL_ASCII. The error of polars does not say which value is not UTF-8.
        return pl.Series(values.name, [_decoded(raw) for raw in values.to_list()], dtype=pl.String)


def _decoded(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


def _hashed(values: pl.Series, key: str) -> pl.Series:
    """Return the HMAC of every value, computed by its definition in DuckDB.

    DuckDB hashes a whole column without the interpreter's lock, so other threads run meanwhile. 250,000 e-mail
    addresses take 0.35 s; `hmac.digest` for each value takes 0.55 s, all of it under the lock.
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
    """Return an empty in-memory database, for its functions. Each caller uses its own cursor."""
    return duckdb.connect(":memory:")
