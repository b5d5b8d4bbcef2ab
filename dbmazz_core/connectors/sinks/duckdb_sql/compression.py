"""Choose the compression of texts by their length.

DuckDB 2.0 compresses texts with DICT_FSST regardless of their length. For documents of 8 kB, DICT_FSST takes six times
as long as ZSTD and up to a hundred times as much space (docs/benchmarks.md). With DICT_FSST disabled, DuckDB compresses
columns whose texts are long on average with ZSTD, and does not compress the others. The setting is one for the whole
file, and DuckDB reads it when it writes rows to disk. dbmazz therefore disables DICT_FSST in runs that write more bytes
of long texts than of short texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    import polars as pl

#: Average length in bytes from which DuckDB compresses a column's texts with ZSTD (setting `zstd_min_string_length`).
_LONG_BYTES = 4096
#: Number of rows of a frame whose lengths are measured.
_SAMPLE_ROWS = 1000
#: Bytes from which on a single row is one of long texts.
_LARGE_BYTES = 1 << 18


class TextCompression:
    """Sets DuckDB's compression of texts by the frames that a run writes.

    Args:
        connection: The connection to set.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._long_bytes = self._short_bytes = 0.0
        self._disabled = False

    def observe(self, frame: pl.DataFrame) -> None:
        """Count the bytes of the frame's texts, and change the setting if needed. Call before writing the frame."""
        if not len(frame):
            return
        if len(frame) == 1 and frame.estimated_size() >= _LARGE_BYTES:
            # polars copies the value of a single row to make a series of it. Nearly all of such a row is long texts.
            self._long_bytes += frame.estimated_size()
        else:
            self._observe_texts(frame)
        if (self._long_bytes > self._short_bytes) != self._disabled:
            self._disabled = not self._disabled
            methods = "dict_fsst" if self._disabled else ""
            self._connection.execute(f"SET disabled_compression_methods = '{methods}'")

    def _observe_texts(self, frame: pl.DataFrame) -> None:
        import polars as pl  # loaded by the frame; a window without changes does not need it

        sample = frame.head(_SAMPLE_ROWS)
        for series in sample:
            if series.dtype not in (pl.String, pl.Binary):
                continue
            size = _bytes(series) * len(frame) / len(sample)
            if size >= _LONG_BYTES * len(frame):
                self._long_bytes += size
            else:
                self._short_bytes += size


def _bytes(texts: pl.Series) -> int:
    """Return the bytes of texts."""
    import polars as pl

    texts = texts.alias("v")  # a name such as `^.*$` is a pattern in polars
    return int((texts.str.len_bytes() if texts.dtype == pl.String else texts.bin.size()).sum())
