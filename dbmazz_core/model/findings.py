"""What a check has found, and what set-up did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dbmazz_core.errors import DbmazzError
from dbmazz_core.table_ref import TableRef

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `error` prevents capturing, `warning` does not.
        what: What is so, one sentence.
        object: The object it is so of.
        error: With its remedy; always there for an error, sometimes for a warning.
    """

    level: Level
    what: str
    object: str
    error: DbmazzError | None = None

    @classmethod
    def of(cls, error: DbmazzError, level: Level = "error") -> Finding:
        """A finding that something is wrong."""
        return cls(level, error.what, error.object, error)

    def to_dict(self) -> dict[str, str]:
        """Keys `level`, `what`, `object`; where something is wrong also `error` (its kind) and `remedy`."""
        found = {"level": str(self.level), "what": self.what, "object": self.object}
        if self.error is not None:
            found |= {"error": type(self.error).__name__, "remedy": self.error.remedy}
        return found


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All findings, in the order in which they are to be mended."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing prevents capturing."""
        return not self.errors

    @property
    def errors(self) -> list[DbmazzError]:
        """What prevents capturing."""
        return [f.error for f in self.findings if f.level == "error" and f.error is not None]

    @property
    def warnings(self) -> list[Finding]:
        """What does not prevent it, but should be known."""
        return [f for f in self.findings if f.level == "warning"]

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for error in self.errors:
            raise error

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it: `ok` and `findings`."""
        return {"ok": self.ok, "findings": [f.to_dict() for f in self.findings]}


@dataclass(frozen=True, slots=True)
class SetupReport:
    """What set-up did.

    Attributes:
        tables: The configured tables.
        done: What was changed, one sentence each; empty where everything was in place.
        check: All findings before the changes.
    """

    tables: tuple[TableRef, ...]
    done: tuple[str, ...]
    check: CheckReport

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it: `tables`, `done`, `warnings`."""
        return {
            "tables": [str(table) for table in self.tables],
            "done": list(self.done),
            "warnings": [f.to_dict() for f in self.check.warnings],
        }
