"""What a run can be told in Dagster's launchpad."""

from __future__ import annotations

from typing import Literal

import dagster as dg
from pydantic import Field

from dbmazz_core.settings.config import WindowLimits

#: What a selected table without changes yields.
Unchanged = Literal["skip", "observe", "materialize"]


class DbmazzConfig(dg.Config):
    """Run configuration of the assets of `@dbmazz_assets`.

    In the launchpad:

        ops:
          dbmazz:
            config:
              max_seconds: 60
              resnapshot: true

    >>> DbmazzConfig(max_changes=1000).limits(WindowLimits(max_seconds=60))
    WindowLimits(max_changes=1000, max_bytes=None, max_seconds=60)
    """

    max_changes: int | None = Field(default=None, ge=1, description="End the window after so many changes.")
    max_bytes: int | None = Field(default=None, ge=1, description="End the window after so many bytes received.")
    max_seconds: float | None = Field(default=None, gt=0, description="End the window after so many seconds.")
    resnapshot: bool = Field(
        default=False,
        description="Copy the tables of the selected assets again. Their old rows stay readable until the "
        "copy is complete, and the other tables follow as ever.",
    )
    resnapshot_tables: list[str] = Field(
        default=[], description="Copy these tables again (`schema.table`), whatever is selected."
    )

    def limits(self, defaults: WindowLimits) -> WindowLimits:
        """These limits, and the resource's where none is given here."""
        return WindowLimits(
            max_changes=defaults.max_changes if self.max_changes is None else self.max_changes,
            max_bytes=defaults.max_bytes if self.max_bytes is None else self.max_bytes,
            max_seconds=defaults.max_seconds if self.max_seconds is None else self.max_seconds,
        )
