"""One limit for the memory of a process, and its division.

Memory is taken by the program (Python, polars, DuckDB and pyarrow without any row), by bytes that were received and
not read yet, by changes on their way into the destination, and by DuckDB. The shares were found by measurement
(docs/benchmarks.md, "Memory").
"""

from __future__ import annotations

from dataclasses import dataclass

from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.parsers import MEBIBYTE

#: What the program takes without any row, with the receiver's queue, which is always the same (`QUEUE_BYTES`).
PROGRAM_BYTES = 200 * MEBIBYTE
#: The smallest limit at which each share still works.
SMALLEST_LIMIT = 320 * MEBIBYTE
#: The default.
DEFAULT_LIMIT = 512 * MEBIBYTE
#: DuckDB's part of the rest, and the least that it gets.
_SINK = 0.4
_SINK_LEAST = 64 * MEBIBYTE
#: Received bytes of a piece as a part of the rest. Two pieces are in memory at a time, as one is collected while the
#: other is applied. Each takes up to three times its received bytes: these, the values as columns, their net effect.
_FLUSH = 0.1
_FLUSH_MOST = 64 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """How much memory a run takes, for rows of some kilobytes; a process can have several runs.

    >>> memory = MemoryConfig(512 << 20)
    >>> memory.sink_bytes >> 20, memory.flush_bytes >> 20
    (124, 31)

    Attributes:
        limit: Bytes that the process takes at most, all together.

    Raises:
        ConfigError: The limit is too small.
    """

    limit: int = DEFAULT_LIMIT

    def __post_init__(self) -> None:
        if self.limit < SMALLEST_LIMIT:
            raise ConfigError(
                f"MEMORY_LIMIT is {self.limit / MEBIBYTE:.0f}MB, and {SMALLEST_LIMIT >> 20}MB is the smallest that "
                f"works: Python and its libraries alone take {PROGRAM_BYTES >> 20}MB",
                object="MEMORY_LIMIT",
                remedy=f"set MEMORY_LIMIT to {SMALLEST_LIMIT >> 20}MB or more, or unset it",
            )

    @property
    def sink_bytes(self) -> int:
        """The share of DuckDB, without `SINK_MEMORY_LIMIT`."""
        return max(int((self.limit - PROGRAM_BYTES) * _SINK), _SINK_LEAST)

    @property
    def flush_bytes(self) -> int:
        """The received bytes after which changes are applied, without `FLUSH_MAX_BYTES`."""
        return min(int((self.limit - PROGRAM_BYTES) * _FLUSH), _FLUSH_MOST)
