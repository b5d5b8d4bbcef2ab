"""Counts of what generated workloads did."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """What the runs did, for the report at the end."""

    programs: int = 0
    statements: int = 0
    refused: int = 0
    commits: int = 0
    windows: int = 0
    flushes: int = 0
    kills: int = 0
    changes: int = 0
    comparisons: int = 0
    left_out: int = 0
    copies: int = 0
    undecodable: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, f.name)} {f.name}" for f in dataclasses.fields(self))
