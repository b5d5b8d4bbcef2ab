"""Memory that the receiving process and the reader share: blocks change hands without being copied.

A file without a name (memfd_create(2)) cut into slots. The receiver fills a slot from the socket and tells its number;
the reader looks at it in place, and gives the slot back once nothing points into it any more. A receiver that finds no
free slot uses memory of its own, and the bytes go through the pipe.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from weakref import finalize

import numpy as np

from dbmazz_core.connectors.sources.postgres.block import Bytes

#: Bytes of a slot, in whole pages: a block, its headroom, and one read more.
SLOT_BYTES = (4 << 20) + (1 << 20) + (1 << 17)
#: What a flush holds by default, and three times as much to come while it is applied: half as many let the server wait
#: for us, one second in six where rows are large (docs/benchmarks.md). Pages are taken when first used.
SLOTS = 48


def create() -> int | None:
    """A descriptor for `SLOTS` slots, close-on-exec; None where the system has no such files, or none of that size."""
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = os.memfd_create("dbmazz")
    try:
        os.ftruncate(descriptor, SLOTS * SLOT_BYTES)
    except OSError:  # `ulimit -f` counts it as a file
        os.close(descriptor)
        return None
    return descriptor


class SlotPool:
    """The receiver's side: which slots are free.

    Args:
        descriptor: From `create`; None: there are no slots.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._free = list(range(SLOTS))[::-1] if descriptor is not None else []
        self._memory = memoryview(mmap.mmap(descriptor, SLOTS * SLOT_BYTES)) if descriptor is not None else None
        self._lock = threading.Lock()

    def acquire(self) -> tuple[memoryview, int] | None:
        """A free slot and its number; None if all are in use."""
        with self._lock:
            if self._memory is None or not self._free:
                return None
            number = self._free.pop()
        return self._memory[number * SLOT_BYTES : (number + 1) * SLOT_BYTES], number

    def release(self, number: int) -> None:
        """The reader needs the slot no longer."""
        with self._lock:
            self._free.append(number)


class SlotViews:
    """The reader's side.

    Args:
        descriptor: From `create`; it may be closed afterwards.
        release: Called with a slot's number when nothing points into it any more; from any thread.
    """

    def __init__(self, descriptor: int, release: Callable[[int], None]) -> None:
        self._memory = mmap.mmap(descriptor, SLOTS * SLOT_BYTES)
        self._release = release

    def view(self, number: int) -> Bytes:
        """A slot's bytes. Arrays, series and buffers made from this array keep the slot in use."""
        array: Bytes = np.frombuffer(self._memory, dtype=np.uint8, count=SLOT_BYTES, offset=number * SLOT_BYTES)
        finalize(array, self._release, number).atexit = False
        return array
