"""Errors of dbmazz as Dagster's failures: what happened as description, what to do about it as metadata."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from dbmazz_core.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    DbmazzError,
    DestinationLocked,
    ReplicationInterrupted,
    ServerChanged,
    SlotActive,
    SlotCreationBlocked,
    TableLocked,
)
from dbmazz_dagster.run_history import unfinished_runs
from dbmazz_dagster.tags import SLOT_TAG


def is_transient(error: DbmazzError) -> bool:
    """Whether the same attempt may succeed later without anybody changing anything.

    A wrong password is a failed connection, but stays wrong.
    """
    transient = (
        ConnectionFailed,
        ReplicationInterrupted,
        ServerChanged,
        SlotActive,
        SlotCreationBlocked,
        TableLocked,
        DestinationLocked,
    )
    return isinstance(error, transient) and not isinstance(error, AuthenticationFailed)


@contextmanager
def dbmazz_failures(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
) -> Iterator[None]:
    """Turn every `DbmazzError` of the block into a `dagster.Failure`.

    The error has said what happened and what to do; its traceback goes to the log at debug level.
    """
    try:
        yield
    except DbmazzError as error:
        context.log.debug("".join(traceback.format_exception(error)))
        raise to_failure(error, held_by=_held_by(context, error)) from None


def to_failure(error: DbmazzError, *, held_by: str | None = None) -> dg.Failure:
    """The error as a failure.

    >>> from dbmazz_core.errors import SlotNotFound
    >>> failure = to_failure(SlotNotFound("slot s does not exist", object="s", remedy="dbmazz setup"))
    >>> failure.description, failure.metadata["remedy"].value, failure.allow_retries
    ('slot s does not exist', 'dbmazz setup', False)

    Args:
        error: What went wrong.
        held_by: The Dagster run that holds what was found busy.
    """
    metadata: dict[str, dg.MetadataValue] = {
        "remedy": dg.MetadataValue.text(error.remedy),
        "object": dg.MetadataValue.text(error.object),
        "error": dg.MetadataValue.text(type(error).__name__),
    }
    if held_by is not None:
        metadata["held_by_run"] = dg.MetadataValue.dagster_run(held_by)
    return dg.Failure(description=error.what, metadata=metadata, allow_retries=is_transient(error))


def _held_by(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, error: DbmazzError) -> str | None:
    """The other run of this slot that is under way, if there is one and the error says that it may be why."""
    if not isinstance(error, SlotActive | DestinationLocked):
        return None
    slot = context.run.tags.get(SLOT_TAG)
    others = [r.dagster_run.run_id for r in unfinished_runs(context.instance, slot)] if slot else []
    return next((run_id for run_id in others if run_id != context.run.run_id), None)
