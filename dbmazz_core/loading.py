"""Import polars when it is needed: not at all in a window without changes, where the import is half of the time."""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
from importlib import import_module

#: More bytes than `struct sigaction` has on any system.
_SIGACTION_BYTES = 512


def load_polars() -> None:
    """Import polars, and let the program's own handler of SIGINT stay the only one. Any thread may call it.

    The import puts a handler of polars in front, also in front of one that the program has set. It makes Ctrl-C raise
    KeyboardInterrupt in the middle of a query as well, where a capture should go on to its next flush (polars' pull
    request 20961). `signal.signal` could put the program's handler back, but only in the main thread. A program without
    a handler of its own gets that of polars.
    """
    if "polars" in sys.modules:
        return
    has_handler = signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, signal.SIG_DFL)
    system, handler = ctypes.CDLL(None), ctypes.create_string_buffer(_SIGACTION_BYTES)
    system.sigaction(signal.SIGINT, None, handler)
    collects = gc.isenabled()
    gc.disable()  # modules stay: looking for garbage among them takes a tenth of the import
    import_module("polars")
    if collects:
        gc.enable()
    if has_handler:
        system.sigaction(signal.SIGINT, handler, None)
