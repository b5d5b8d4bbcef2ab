"""How long texts are compressed.

DuckDB 2.0 compresses texts by DICT_FSST, whatever their length. Of documents of 8 kB that takes six times as long as
ZSTD, and up to a hundred times as much space (docs/benchmarks.md). Without DICT_FSST it takes ZSTD for columns whose
texts are long on average, and leaves those of all others as they are. The setting is one for the whole file, and counts
when rows are written out: so it follows which of both there is more of in what a run writes.
"""

from __future__ import annotations

import duckdb
import polars as pl

#: Average bytes of a column's texts from which on DuckDB takes ZSTD (its setting `zstd_min_string_length`).
_LONG = 4096
#: Rows of a frame that are looked at.
_SAMPLE = 1000


class Compression:
    """Chooses by the frames that a run writes.

    Args:
        connection: Whose setting it is.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._long = self._short = 0.0
        self._without_dictionaries = False

    def look(self, frame: pl.DataFrame) -> None:
        """Take account of rows before they are written."""
        if not len(frame):
            return
        sample = frame.head(_SAMPLE)
        for series in sample:
            if series.dtype not in (pl.String, pl.Binary):
                continue
            texts = series.alias("v")  # `^.*$` is a name, and a pattern to polars
            lengths = texts.str.len_bytes() if series.dtype == pl.String else texts.bin.size()
            size = int(lengths.sum()) * len(frame) / len(sample)
            if size >= _LONG * len(frame):
                self._long += size
            else:
                self._short += size
        if (self._long > self._short) != self._without_dictionaries:
            self._without_dictionaries = not self._without_dictionaries
            methods = "dict_fsst" if self._without_dictionaries else ""
            self._connection.execute(f"SET disabled_compression_methods = '{methods}'")
