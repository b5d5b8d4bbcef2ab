"""Rewrite change batches so that they contain only changes that the table can hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from dbmazz_core.engine.row_images import FilledImages, GatheredImages, KeyOnlyImages
from dbmazz_core.model.batch import DELETE, INSERT, UPDATE, ChangeBatch, Indexes, Mask, RowImages


def without_bad_values(batch: ChangeBatch, is_bad: Mask, key_is_bad: Mask, old_is_absent: Mask) -> ChangeBatch:
    """Return a batch without new images that have a bad value.

    Inserts with a bad value are removed. Updates with a bad value become deletes of the row that they change, or are
    removed if that row is not in the table. Deletes of rows that are not in the table are removed.

    Args:
        batch: The batch.
        is_bad: Whether the new image of a change has a bad value.
        key_is_bad: Whether the key of the new image has a bad value.
        old_is_absent: Whether the row of the old image is not in the table.
    """
    count, keyed = len(batch), bool(batch.schema.key)
    keys = [batch.schema.names.index(name) for name in batch.schema.key]
    ops = batch.ops.copy()
    has_old = np.zeros(count, dtype=np.bool_)
    has_old[batch.old.index] = True
    update = ops == UPDATE
    # An update without an old image did not change the key: the key of the new image finds the row.
    found_by_new_key = update & is_bad & ~has_old & ~key_is_bad if keyed else np.zeros(count, dtype=np.bool_)
    becomes_delete = update & is_bad & ((has_old & ~old_is_absent) | found_by_new_key)
    # Without a key and without an old image, the row of an update is not known: the net effect raises UnknownValue.
    row_is_unknown = update & ~has_old & (not keyed)
    removed = (is_bad & ~becomes_delete & ~row_is_unknown) | ((ops == DELETE) & old_is_absent)
    ops[becomes_delete] = DELETE
    if not keyed:
        ops[update & old_is_absent & ~is_bad] = INSERT
    kept = np.flatnonzero(~removed)
    new_number = np.cumsum(~removed) - 1

    new_places = np.flatnonzero((~removed & ~becomes_delete)[batch.new.index])
    new = GatheredImages(new_number[batch.new.index[new_places]], [batch.new], new_places)
    old_places = np.flatnonzero((~removed & ~old_is_absent)[batch.old.index])
    key_places = np.flatnonzero(found_by_new_key[batch.new.index])
    old_rows = np.concatenate([batch.old.index[old_places], batch.new.index[key_places]])
    order = np.argsort(old_rows)
    old = GatheredImages(
        new_number[old_rows[order]],
        [batch.old, KeyOnlyImages(batch.new, keys, np.ones(len(batch.new.index), dtype=np.bool_))],
        np.concatenate([old_places, len(batch.old.index) + key_places])[order],
    )
    old_is_key = np.concatenate([batch.old_is_key[old_places], np.ones(len(key_places), dtype=np.bool_)])[order]
    return _with_changes(batch, kept, ops, new, old, old_is_key)


def without_changes(batch: ChangeBatch, removed: Indexes) -> ChangeBatch:
    """Return a batch without some of its changes.

    Args:
        batch: The batch.
        removed: Numbers of these changes.
    """
    if not len(removed):
        return batch
    stays = np.ones(len(batch), dtype=np.bool_)
    stays[removed] = False
    new_number = np.cumsum(stays) - 1
    new_places, old_places = np.flatnonzero(stays[batch.new.index]), np.flatnonzero(stays[batch.old.index])
    return _with_changes(
        batch,
        np.flatnonzero(stays),
        batch.ops,
        GatheredImages(new_number[batch.new.index[new_places]], [batch.new], new_places),
        GatheredImages(new_number[batch.old.index[old_places]], [batch.old], old_places),
        batch.old_is_key[old_places],
    )


def reduce_old_images_to_keys(batch: ChangeBatch, reduced: Mask) -> ChangeBatch:
    """Return a batch, some of whose old images are reduced to the key.

    Values that only the old image has, because they were not sent with the new image, are moved to the new image first.

    Args:
        batch: The batch.
        reduced: Whether an old image is reduced, shape of `old.index`.
    """
    keys = [batch.schema.names.index(name) for name in batch.schema.key]
    return replace(
        batch,
        new=FilledImages(batch.new, batch.old, ~batch.old_is_key),
        old=KeyOnlyImages(batch.old, keys, reduced),
        old_is_key=batch.old_is_key | reduced,
    )


def _with_changes(
    batch: ChangeBatch, kept: Indexes, ops: Iterable[int], new: RowImages, old: RowImages, old_is_key: Mask
) -> ChangeBatch:
    """Return a batch with some of its changes.

    Args:
        batch: The batch.
        kept: Numbers of these changes.
        ops: The operations, by change of `batch`.
        new: The new images, by change of the result.
        old: The old images, by change of the result.
        old_is_key: Which old images hold key columns only.
    """
    return replace(
        batch,
        ops=np.asarray(ops, dtype=np.uint8)[kept],
        commit_lsn=batch.commit_lsn[kept],
        xid=batch.xid[kept],
        ordinal=batch.ordinal[kept],
        commit_time=batch.commit_time[kept],
        new=new,
        old=old,
        old_is_key=old_is_key,
    )
