"""Mask whole columns, see `masks`."""

from __future__ import annotations

import hashlib
from functools import cache

import duckdb
import polars as pl

from dbmazz_core.model.datatypes import DataType
from dbmazz_core.model.masks import Masker

_BLOCK_BYTES = 64


def masked(masker: Masker, values: pl.Series, type: DataType) -> pl.Series:
    """Return the masked values of a column.

    Args:
        masker: The mask.
        values: PostgreSQL's texts, `String` or `Binary`. `Binary` need not be UTF-8 to be hashed. Null stays null.
        type: The masked column's type (`Masker.type`).

    Returns:
        The column in the carrier dtype of `type`. `truncate` makes texts null that are not UTF-8.
    """
    match masker.mask.kind:
        case "null":
            return pl.repeat(None, len(values), dtype=type.carrier, eager=True).alias(values.name)
        case "hash":
            return _hashed(values.cast(pl.Binary), masker.key)
        case _:
            return utf8(values).str.slice(0, masker.mask.length)


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
