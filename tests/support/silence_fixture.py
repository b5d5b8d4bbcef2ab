"""Short limits of silence, for tests of connections that go silent."""

from __future__ import annotations

import pytest

from dbmazz_core.connectors.sources.postgres import silence

LIMIT_S = 2.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the server after `LIMIT_S` of silence."""
    monkeypatch.setattr(silence, "SILENCE_LIMIT_S", LIMIT_S)
    monkeypatch.setattr(silence, "_LOOK_TIMEOUT_S", 2)
    monkeypatch.setattr(silence, "ANSWER_TIMEOUT_S", LIMIT_S)
