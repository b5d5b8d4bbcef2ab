"""Memory that the receiver process and the reader share, so that blocks are handed over without a copy.

The memory is a file without a name (memfd_create(2)), divided into buffers. Ahead of the buffers is one byte for each,
which says whether the buffer is in use. The receiver sets the byte, fills the buffer from the socket and sends its
number. The reader uses the buffer in place and clears the byte when nothing refers to the buffer any more. A receiver
that finds no free buffer uses memory of its own, and the bytes go through the socket to the reader.

A finalizer touches nothing but the byte: it can run in any thread and at any time, also after the stream was closed.
The memory stays mapped as long as a view of it exists.
"""

from __future__ import annotations

import mmap
import os
from weakref import finalize

import numpy as np

from dbmazz_core.connectors.sources.postgres.octets import Bytes

#: Bytes of a buffer, in whole pages: a block, its headroom, and one more read.
BUFFER_BYTES = (4 << 20) + (1 << 20) + (1 << 17)
#: The blocks of a flush at its default size, and three times as many to receive while the flush is applied. With half
#: as many buffers the server waited for the receiver, one second in six where rows are large (docs/benchmarks.md). The
#: system allocates pages on first use.
BUFFER_COUNT = 48
#: Offset of the first buffer, behind the bytes that say which buffers are in use.
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
    except OSError:  # `ulimit -f` counts the memory as a file
        os.close(descriptor)
        return None
    return descriptor


class BufferPool:
    """The receiver's side: finds free buffers. Used by one thread.

    Args:
        descriptor: From `create_memory`; None: there are no shared buffers.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._memory = None if descriptor is None else memoryview(mmap.mmap(descriptor, _MEMORY_BYTES))

    def acquire(self) -> tuple[memoryview, int] | None:
        """Return a free buffer of `BUFFER_BYTES` and its number, or None if all are in use."""
        if self._memory is None:
            return None
        for number in range(BUFFER_COUNT):  # the lowest free one: its pages are allocated already
            if self._memory[number] == _FREE:
                self._memory[number] = _IN_USE
                begin = _FIRST_BUFFER + number * BUFFER_BYTES
                return self._memory[begin : begin + BUFFER_BYTES], number
        return None

    def release(self, number: int) -> None:
        """Free a buffer that was acquired and not handed over."""
        assert self._memory is not None
        self._memory[number] = _FREE


class BufferViews:
    """The reader's side: views of the buffers.

    Args:
        descriptor: From `create_memory`; the caller may close it afterwards.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _MEMORY_BYTES)
        self._bytes = memoryview(self._memory)

    def view(self, number: int) -> Bytes:
        """Return a buffer's bytes, uint8, shape (`BUFFER_BYTES`,).

        The buffer is in use as long as the array, or anything made from it without a copy, exists.
        """
        begin = _FIRST_BUFFER + number * BUFFER_BYTES
        array: Bytes = np.frombuffer(self._memory, dtype=np.uint8, count=BUFFER_BYTES, offset=begin)
        finalize(array, self._bytes.__setitem__, number, _FREE).atexit = False
        return array
