"""Findings of a check, and the report of a set-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dbmazz_core.errors import DbmazzError
from dbmazz_core.table_ref import TableRef

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        level: `error` prevents capturing; `ok` and `warning` do not.
        what: The fact that was found, one sentence.
        object: The object that the fact is about.
        error: The error with its remedy. Errors always have one, warnings sometimes.
    """

    level: Level
    what: str
    object: str
    error: DbmazzError | None = None

    @classmethod
    def of(cls, error: DbmazzError, level: Level = "error") -> Finding:
        """Return the finding for an error."""
        return cls(level, error.what, error.object, error)

    def to_dict(self) -> dict[str, str]:
        """Return the finding as `--json` prints it: `level`, `what`, `object`; for an error also `error`, `remedy`."""
        found = {"level": str(self.level), "what": self.what, "object": self.object}
        if self.error is not None:
            found |= {"error": type(self.error).__name__, "remedy": self.error.remedy}
        return found


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All findings, in the order in which problems should be solved."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    @property
    def errors(self) -> list[DbmazzError]:
        """The errors: they prevent capturing."""
        return [f.error for f in self.findings if f.level == "error" and f.error is not None]

    @property
    def warnings(self) -> list[Finding]:
        """The warnings: they do not prevent capturing."""
        return [f for f in self.findings if f.level == "warning"]

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for error in self.errors:
            raise error

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `--json` prints it: `ok` and `findings`."""
        return {"ok": self.ok, "findings": [f.to_dict() for f in self.findings]}


@dataclass(frozen=True, slots=True)
class SetupReport:
    """The result of a set-up.

    Attributes:
        tables: The configured tables.
        done: The changes that were made, one sentence each; empty if none was needed.
        check: All findings before the changes.
        problems: Tables whose set-up failed while that of the others succeeded.
    """

    tables: tuple[TableRef, ...]
    done: tuple[str, ...]
    check: CheckReport
    problems: Mapping[TableRef, DbmazzError] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `--json` prints it: `tables`, `done`, `warnings`."""
        return {
            "tables": [str(table) for table in self.tables],
            "done": list(self.done),
            "warnings": [f.to_dict() for f in self.check.warnings],
        }
