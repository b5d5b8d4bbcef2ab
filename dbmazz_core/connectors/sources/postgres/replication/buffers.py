"""Memory that the receiving process and the reader share: blocks change hands without being copied.

A file without a name (memfd_create(2)) cut into slots, with one byte for each slot ahead of them. The receiver sets a
slot's byte, fills the slot from the socket and tells its number; the reader looks at it in place, and sets the byte
back once nothing points into the slot any more. A receiver that finds no free slot uses memory of its own, and the
bytes go through the socket to the reader.

The byte is all that a finalizer touches: it may run in any thread and at any time, also when the stream is closed, and
the memory stays mapped as long as a view of it lives.
"""

from __future__ import annotations

import mmap
import os
from weakref import finalize

import numpy as np

from dbmazz_core.connectors.sources.postgres.parser.block import Bytes

#: Bytes of a slot, in whole pages: a block, its headroom, and one read more.
BUFFER_BYTES = (4 << 20) + (1 << 20) + (1 << 17)
#: What a flush holds by default, and three times as much to come while it is applied: half as many let the server wait
#: for us, one second in six where rows are large (docs/benchmarks.md). Pages are taken when first used.
BUFFER_COUNT = 48
#: Where the slots begin, behind their bytes.
_FIRST_BUFFER = mmap.PAGESIZE
_MEMORY_BYTES = _FIRST_BUFFER + BUFFER_COUNT * BUFFER_BYTES
_FREE, _IN_USE = 0, 1


def create_memory() -> int | None:
    """Create memory for `BUFFER_COUNT` buffers.

    Returns:
        Its descriptor, close-on-exec; None where the system has no memfd_create(2), or allows no file of that size.
    """
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = os.memfd_create("dbmazz")
    try:
        os.ftruncate(descriptor, _MEMORY_BYTES)
    except OSError:  # `ulimit -f` counts it as a file
        os.close(descriptor)
        return None
    return descriptor


class BufferPool:
    """The receiver's side: which slots are free.

    Args:
        descriptor: From `create_memory`; None: there are no slots.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._memory = None if descriptor is None else memoryview(mmap.mmap(descriptor, _MEMORY_BYTES))

    def acquire(self) -> tuple[memoryview, int] | None:
        """A free slot and its number, for one thread to ask; None if all are in use."""
        if self._memory is None:
            return None
        for number in range(BUFFER_COUNT):  # the first: its pages are there already
            if self._memory[number] == _FREE:
                self._memory[number] = _IN_USE
                begin = _FIRST_BUFFER + number * BUFFER_BYTES
                return self._memory[begin : begin + BUFFER_BYTES], number
        return None

    def release(self, number: int) -> None:
        """A slot that was acquired is not handed on."""
        assert self._memory is not None
        self._memory[number] = _FREE


class BufferViews:
    """The reader's side.

    Args:
        descriptor: From `create_memory`; it may be closed afterwards.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _MEMORY_BYTES)
        self._bytes = memoryview(self._memory)

    def view(self, number: int) -> Bytes:
        """A slot's bytes. Arrays, series and buffers made from this array keep the slot in use."""
        begin = _FIRST_BUFFER + number * BUFFER_BYTES
        array: Bytes = np.frombuffer(self._memory, dtype=np.uint8, count=BUFFER_BYTES, offset=begin)
        finalize(array, self._bytes.__setitem__, number, _FREE).atexit = False
        return array
