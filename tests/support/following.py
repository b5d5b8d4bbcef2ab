"""`Pipeline.follow` in a process of its own, for tests that change the source meanwhile, or kill it."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Self, TypeVar

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.transaction import DuckDBTransaction
from dbmazz_core.engine.follow_status import FollowPhase, FollowStatus
from dbmazz_core.engine.progress import Progress
from dbmazz_core.lsn import Lsn
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import FlushConfig, FollowConfig, Settings
from tests.support.lab import Lab

#: Seconds that anything may take on a busy machine.
_PATIENCE_S = 60.0

_T = TypeVar("_T")
_spawn = multiprocessing.get_context("spawn")


def _die_at(moment: str) -> None:
    """Let this process kill itself before or behind its n-th commit: `before:3`, `behind:3`."""
    place, _, number = moment.partition(":")
    commit, commits = DuckDBTransaction.commit, itertools.count(1)

    def dying(self: DuckDBTransaction, *arguments: Any, **options: Any) -> None:
        is_last = next(commits) == int(number)
        if is_last and place == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        commit(self, *arguments, **options)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    DuckDBTransaction.commit = dying  # type: ignore[method-assign]


def _follow(settings: Settings, channel: Connection, die_at: str | None) -> None:
    """Follow, in the other process: send statuses, messages and what ended it; receive settings, None to stop."""
    if die_at is not None:
        _die_at(die_at)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    stop, lock = threading.Event(), threading.Lock()
    given: list[Settings] = []

    def send(what: object) -> None:
        with lock:
            channel.send(what)

    def receive() -> None:
        while (settings := channel.recv()) is not None:
            given.append(settings)
        stop.set()

    def progress(report: Progress) -> None:
        if report.message:
            send(report.message)

    threading.Thread(target=receive, daemon=True).start()
    try:
        Pipeline(settings).follow(
            stop=stop, reload=lambda: given.pop() if given else None, watch=send, progress=progress
        )
    except Exception as error:  # noqa: BLE001 - the test raises it
        send(error)


class Follower:
    """Follows a lab's source. As a context manager it stops at the end, and raises what ended it.

    Attributes:
        messages: What it said.
        phases: The phases that it went through.
        status: The last status.
        error: What ended it.
    """

    def __init__(self, lab: Lab, *, die_at: str | None = None, **config: Any) -> None:
        settings = {"interval_ms": 50, "look_interval_s": 0.3} | config
        # The checkpoint moves with every message of the stream.
        flush = lab.settings.get("flush", FlushConfig(idle_wal_bytes=1))
        self.lab = lab.configured(follow=FollowConfig(**settings), flush=flush)
        self.messages: list[str] = []
        self.phases: list[FollowPhase] = []
        self.status = FollowStatus(lab.slot)
        self.error: Exception | None = None
        self._channel, other = _spawn.Pipe()
        self.process = _spawn.Process(target=_follow, args=(self.lab.pipeline.settings, other, die_at))
        self.process.start()
        other.close()
        self._reader = threading.Thread(target=self._receive, daemon=True)
        self._reader.start()

    def _receive(self) -> None:
        while True:
            try:
                what = self._channel.recv()
            except (EOFError, OSError):
                return
            if isinstance(what, FollowStatus):
                if not self.phases or self.phases[-1] is not what.phase:
                    self.phases.append(what.phase)
                self.status = what
            elif isinstance(what, str):
                self.messages.append(what)
            else:
                self.error = what

    @property
    def streams(self) -> int:
        """How often a stream was opened."""
        return self.phases.count(FollowPhase.STREAMING)

    def __enter__(self) -> Self:
        self.wait(lambda: self.streams)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end(check=kind is None)

    def reload(self, lab: Lab) -> None:
        """Give it the settings of another lab."""
        self._channel.send(replace(lab.pipeline.settings, flush=self.lab.settings["flush"]))

    def end(self, *, check: bool = True) -> None:
        """Stop; raise what ended it before."""
        with contextlib.suppress(OSError):  # it may have ended
            self._channel.send(None)
        self._join()
        if check and self.error is not None:
            raise self.error

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self._join()

    def _join(self) -> None:
        self.process.join(_PATIENCE_S)
        is_alive = self.process.is_alive()
        self.process.kill()
        self._reader.join(5)
        assert not is_alive, f"it does not stop: {self.phases[-5:]}, {self.messages[-5:]}"

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until something is true; raise what has ended it meanwhile."""
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if self.error is not None:
                raise self.error
            assert time.monotonic() < deadline, f"it did not come to that: {self.phases[-5:]}, {self.messages[-5:]}"
            time.sleep(0.01)

    def assert_equal(self, *tables: str) -> None:
        """The oracle, as soon as no flush holds the file."""
        as_soon_as_free(lambda: self.lab.assert_equal(*tables))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Query the destination, as soon as no flush holds the file."""
        return as_soon_as_free(lambda: self.lab.rows(query))

    def catch_up(self) -> None:
        """Wait until all that is committed now is in the destination, and the stream is open again."""
        ((text,),) = self.lab.database.fetch("SELECT pg_logical_emit_message(true, 'test', '')::text")
        self.wait(lambda: (self.status.checkpoint or 0) >= Lsn.parse(text))
        self.wait(lambda: self.status.phase is FollowPhase.STREAMING)


def as_soon_as_free(read: Callable[[], _T]) -> _T:
    """Read the file; again if the process that follows has it open for writing."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return read()
        except duckdb.IOException as error:
            if "lock" not in str(error).lower() or time.monotonic() > deadline:
                raise
        time.sleep(0.01)
