"""Short limits of silence, for tests of connections that go silent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from dbmazz_core.connectors.sources.postgres import silence
from dbmazz_core.connectors.sources.postgres.replication import launcher

LIMIT_S = 2.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Looks at the server after `LIMIT_S` of silence, in receiver processes too."""
    monkeypatch.setattr(silence, "SILENCE_LIMIT_S", LIMIT_S)
    monkeypatch.setattr(silence, "_LOOK_TIMEOUT_S", 2)
    monkeypatch.setattr(silence, "ANSWER_TIMEOUT_S", LIMIT_S)
    change = f"import {silence.__name__} as s; s.SILENCE_LIMIT_S = s.ANSWER_TIMEOUT_S = {LIMIT_S}; "
    change += "s._LOOK_TIMEOUT_S = 2; main(*map"
    with fork_server(monkeypatch, change):
        yield


@contextlib.contextmanager
def fork_server(monkeypatch: pytest.MonkeyPatch, change: str) -> Iterator[None]:
    """A fork server of the receivers that has changed some constants first."""
    launcher._stop_fork_server()
    monkeypatch.setattr(launcher, "_BOOT_CODE", launcher._BOOT_CODE.replace("main(*map", change))
    launcher.prestart()
    yield
    launcher._stop_fork_server()
