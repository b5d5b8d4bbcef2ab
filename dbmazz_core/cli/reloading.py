"""Settings that are read again while `dbmazz follow` runs."""

from __future__ import annotations

from collections.abc import Callable

from dbmazz_core.cli.report import Report
from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.config import Settings


def read_again(report: Report, started_with: Settings, read: Callable[[], Settings]) -> Settings | None:
    """Return new settings, None if they cannot be used; say which.

    Args:
        report: Prints what is done.
        started_with: The settings at the start of the process.
        read: Reads the settings.
    """
    try:
        settings = read()
    except ConfigError as error:
        report.message(f"the settings stay as they were: {error}")
        return None
    for variable, old, new in (
        ("SOURCE_SLOT_NAME", started_with.source.slot, settings.source.slot),
        ("SINK_URL", started_with.sink.url, settings.sink.url),
        ("METRICS", started_with.follow.metrics, settings.follow.metrics),
    ):
        if old != new:
            report.message(
                f"the settings stay as they were: {variable} is {new} now, and was {old}\n"
                "  what to do: end this process and start it again"
            )
            return None
    report.url = settings.source.url
    report.message("the settings were read again")
    return settings
