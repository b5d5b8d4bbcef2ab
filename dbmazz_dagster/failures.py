"""Errors of dbmazz as `dagster.Failure`, with the error as description and its remedy as metadata."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from dbmazz_core.errors import DbmazzError, DestinationLocked, SlotActive
from dbmazz_dagster.run_history import unfinished_runs
from dbmazz_dagster.tags import SLOT_TAG


@contextmanager
def dbmazz_failures(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
) -> Iterator[None]:
    """Raise every `DbmazzError` of the block as a `dagster.Failure`. The traceback goes to the log at debug level."""
    try:
        yield
    except DbmazzError as error:
        context.log.debug("".join(traceback.format_exception(error)))
        raise to_failure(error, held_by=_held_by(context, error)) from None


def to_failure(error: DbmazzError, *, held_by: str | None = None) -> dg.Failure:
    """Return an error as a failure, which allows retries if the error is transient.

    >>> from dbmazz_core.errors import SlotNotFound
    >>> failure = to_failure(SlotNotFound("slot s does not exist", object="s", remedy="dbmazz setup"))
    >>> failure.description, failure.metadata["remedy"].value, failure.allow_retries
    ('slot s does not exist', 'dbmazz setup', False)

    Args:
        error: The error.
        held_by: Id of the Dagster run that holds the slot or the destination, if it is known.
    """
    metadata: dict[str, dg.MetadataValue] = {
        "remedy": dg.MetadataValue.text(error.remedy),
        "object": dg.MetadataValue.text(error.object),
        "error": dg.MetadataValue.text(type(error).__name__),
    }
    if held_by is not None:
        metadata["held_by_run"] = dg.MetadataValue.dagster_run(held_by)
    return dg.Failure(description=error.what, metadata=metadata, allow_retries=error.is_transient)


def _held_by(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, error: DbmazzError) -> str | None:
    """Return the id of another unfinished run of the slot if the slot or the destination is in use, else None."""
    if not isinstance(error, SlotActive | DestinationLocked):
        return None
    slot = context.run.tags.get(SLOT_TAG)
    others = [r.dagster_run.run_id for r in unfinished_runs(context.instance, slot)] if slot else []
    return next((run_id for run_id in others if run_id != context.run.run_id), None)
