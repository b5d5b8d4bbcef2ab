"""Something that happens at an exact moment of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def before(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, do: Callable[[], object]) -> None:
    """Do something once, just before a method or a module's function runs."""
    method = getattr(owner, name)

    def wrapped(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(owner, name, method)
        do()
        return method(*arguments, **more)

    monkeypatch.setattr(owner, name, wrapped)
