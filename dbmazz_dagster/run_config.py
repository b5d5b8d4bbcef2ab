"""Run configuration, which a user enters in Dagster's launchpad."""

from __future__ import annotations

from typing import Literal

import dagster as dg
from pydantic import Field

from dbmazz_core.settings.config import WindowLimits

#: What a selected table without changes yields.
Unchanged = Literal["skip", "observe", "materialize"]


class DbmazzConfig(dg.Config):
    """Run configuration of the assets of `@dbmazz_assets`.

    An example for the launchpad:

        ops:
          dbmazz:
            config:
              max_seconds: 60
              resnapshot: true

    >>> DbmazzConfig(max_changes=1000).limits(WindowLimits(max_seconds=60))
    WindowLimits(max_changes=1000, max_bytes=None, max_seconds=60)
    """

    max_changes: int | None = Field(default=None, ge=1, description="End the window after this many changes.")
    max_bytes: int | None = Field(default=None, ge=1, description="End the window after this many received bytes.")
    max_seconds: float | None = Field(default=None, gt=0, description="End the window after this many seconds.")
    resnapshot: bool = Field(
        default=False,
        description="Re-snapshot the tables of the selected assets. Readers see their old rows until the copy is "
        "complete; all other tables are captured as usual.",
    )
    resnapshot_tables: list[str] = Field(
        default=[], description="Re-snapshot these tables (`schema.table`), whether their assets are selected or not."
    )
    pause_tables: list[str] = Field(
        default=[],
        description="Pause these tables (`schema.table`) before the window: they keep their rows as they are.",
    )
    resume_tables: list[str] = Field(
        default=[], description="Resume these paused tables (`schema.table`): the window copies them again."
    )

    def limits(self, defaults: WindowLimits) -> WindowLimits:
        """Return the limits of this run, and the resource's limits where this configuration has none."""
        return WindowLimits(
            max_changes=defaults.max_changes if self.max_changes is None else self.max_changes,
            max_bytes=defaults.max_bytes if self.max_bytes is None else self.max_bytes,
            max_seconds=defaults.max_seconds if self.max_seconds is None else self.max_seconds,
        )
