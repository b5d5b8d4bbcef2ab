"""What is due beside an open stream: look for what only a window can do, and publish the read copy.

A window looks at the catalog, copies tables and tries failed tables again when it begins. An open stream looks whether
there is something of this, at an interval, and ends if there is: then the next window does it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from dbmazz_core.engine.result import StopReason
from dbmazz_core.engine.table_states import held_tables, record_facts
from dbmazz_core.model.managed_source import ManagedSource
from dbmazz_core.model.read_copy import ReadCopy
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.model.table_state import TableStatus
from dbmazz_core.settings.config import Settings
from dbmazz_core.table_ref import TableRef

#: Seconds between two attempts with tables that may stream again without a change that is seen: the lock on a table
#: may be gone, or a privilege granted.
_RETRY_TABLES_S = 300.0
#: Seconds between two read copies, at least, and at least this many times as long as it took to publish the last one.
_PUBLISH_INTERVAL_S = 1.0
_PUBLISH_SHARE = 10


@dataclass(slots=True)
class FollowUpkeep:
    """Implements `window.Upkeep` for one source and one sink.

    Attributes:
        settings: All settings.
        source: The source that streams.
        sink: The destination.
        on_open: Called when a stream is open, with the bookkeeping.
        on_turn: Called with the argument of `end_reason`; the result, unless it is None, ends the stream.
        on_look: Called with the state of the source, and the bookkeeping.
        on_publish: Called with a read copy that was, or should have been, published.
    """

    settings: Settings
    source: ManagedSource
    sink: Sink
    on_open: Callable[[Recorded], None]
    on_turn: Callable[[float | None], StopReason | None]
    on_look: Callable[[SourceStatus, Recorded], None]
    on_publish: Callable[[ReadCopy], None]
    _recorded: Recorded | None = None
    _opened_at: float = 0.0
    _look_at: float = 0.0
    _publish_at: float = 0.0
    _published: str | None = None

    def opened(self) -> None:
        """See `window.Upkeep.opened`."""
        self._recorded = record_facts(self.sink, self.sink.read(), self.source, self.settings.tables)
        self.sink.release()
        self._opened_at = time.monotonic()
        self._look_at = 0.0
        self.on_open(self._recorded)

    def end_reason(self, behind_s: float | None) -> StopReason | None:
        """See `window.Upkeep.end_reason`."""
        if (reason := self.on_turn(behind_s)) is not None:
            return reason
        now = time.monotonic()
        if self.settings.sink.read_copy is not None and now >= self._publish_at:
            self._publish()
        if now >= self._look_at:
            first, self._look_at = self._look_at == 0.0, now + self.settings.follow.look_interval_s
            # The window that has just begun has looked at everything.
            if self._has_news(look=not first):
                return StopReason.SOURCE_CHANGED
        return None

    def _publish(self) -> None:
        self._publish_at = time.monotonic() + _PUBLISH_INTERVAL_S
        if (version := self.sink.version()) == self._published:
            return
        copy = self.sink.publish()
        assert copy is not None
        if copy.duration_s is not None:
            self._published = version
            self._publish_at = time.monotonic() + max(_PUBLISH_INTERVAL_S, _PUBLISH_SHARE * copy.duration_s)
        self.on_publish(copy)

    def _has_news(self, *, look: bool) -> bool:
        """Return whether a window would do something that the stream does not.

        Args:
            look: Whether the source is looked at, too.
        """
        recorded = self.sink.read()
        self.sink.release()
        self.on_look(self.source.status(), recorded)
        assert self._recorded is not None
        # `dbmazz resume` may have run just before the stream was opened.
        if _states(recorded) != _states(self._recorded) or recorded.in_state(TableStatus.COPYING):
            return True
        if not look:
            return False
        streaming = {ref: recorded.tables[ref].shape for ref in recorded.streaming}
        return (
            not self.source.is_as_looked()
            or not self.source.are_unchanged(streaming)
            or bool(self._tables_to_retry(recorded))
        )

    def _tables_to_retry(self, recorded: Recorded) -> set[TableRef]:
        states = recorded.all_states
        waited = time.monotonic() - self._opened_at >= _RETRY_TABLES_S
        troubled = [
            ref for ref, state in states.items() if state.is_in_trouble and (state.retry_when is not None or waited)
        ]
        return {*troubled} - held_tables(recorded, troubled, self.source, self.settings.tables)


def _states(recorded: Recorded) -> dict[TableRef, tuple[object, ...]]:
    """Return what a person, or an error, changes in the bookkeeping of tables."""
    return {ref: (state.state, state.problem) for ref, state in recorded.all_states.items()}
