"""Compaction: reduce many changes of one table to their net effect, at most one effect per key.

Every change *touches* keys (`touches`). An insert fills a key, a delete empties a key, and an update fills its key
again. An update that changes the key empties the old key and fills the new key. Two touches of each key decide, in
stream order:

- The first touch tells whether the destination holds the key beforehand. An insert can only fill a key that was empty,
  because the source keeps keys unique; updates and deletes find a row.
- The last touch tells which row the destination holds afterwards.

| Before | Afterwards | Effect |
|--------|------------|--------|
| empty  | a row      | append |
| a row  | a row      | upsert |
| a row  | empty      | delete |
| empty  | empty      | none   |

An update may leave out unchanged TOAST values (`unsent_values`). Such a value is that of the row's previous state,
under whatever key it was. Each update therefore points at the change that filled its key before; the pointers lead to
a change that knows the value, or to the destination's row under the key that the first change of the chain found.

An example: a table with the key `id` and the columns `note` and `body`, a TOASTed text. `?` is a value that was not
sent. The old keys of the changes 4 and 8 came with their old images.

| Row | Change                              | Key found | Key filled | Row that filled the found key |
|-----|-------------------------------------|-----------|------------|-------------------------------|
| 0   | INSERT (1, 'a', 'A')                |           | 1          |                               |
| 1   | UPDATE (1, 'b', ?)                  | 1         | 1          | 0                             |
| 2   | DELETE (2)                          | 2         |            | the destination's             |
| 3   | INSERT (2, 'c', 'C')                |           | 2          |                               |
| 4   | UPDATE (3) to (4, 'd', 'D')         | 3         | 4          | the destination's             |
| 5   | INSERT (5, 'e', 'E')                |           | 5          |                               |
| 6   | DELETE (5)                          | 5         |            | 5                             |
| 7   | UPDATE (6, 'f', ?)                  | 6         | 6          | the destination's             |
| 8   | UPDATE (7) to (8, 'g', ?)           | 7         | 8          | the destination's             |
| 9   | DELETE (9)                          | 9         |            | the destination's             |

The touches by key, and the net effect:

| Key | First touch         | Last touch       | Net effect                                                          |
|-----|---------------------|------------------|---------------------------------------------------------------------|
| 1   | row 0 fills         | row 1 fills      | append (1, 'b', 'A'): row 1, with the body of row 0                 |
| 2   | row 2 finds         | row 3 fills      | upsert (2, 'c', 'C')                                                |
| 3   | row 4 finds         | row 4 empties    | delete                                                              |
| 4   | row 4 fills         | row 4 fills      | append (4, 'd', 'D')                                                |
| 5   | row 5 fills         | row 6 empties    | none                                                                |
| 6   | row 7 finds         | row 7 fills      | update: set note to 'f', keep body                                  |
| 7   | row 8 finds         | row 8 empties    | delete                                                              |
| 8   | row 8 fills         | row 8 fills      | move: append (8, 'g', body), body from the destination's row of key 7 |
| 9   | row 9 finds         | row 9 empties    | delete                                                              |

Tables without a key are multisets (`multiset`): equal rows are counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dbmazz_core.engine.batch_rows import BatchRows
from dbmazz_core.engine.net_effect.multiset import compact_multiset
from dbmazz_core.engine.net_effect.touches import NONE, find_touches
from dbmazz_core.engine.net_effect.unsent_values import find_unsent_values
from dbmazz_core.model.batch import INSERT, ChangeBatch
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.records import SourcePosition


def compact(
    batches: Sequence[ChangeBatch], *, truncated: SourcePosition | None = None, soft_delete: bool = False
) -> NetEffect:
    """Return the net effect of change batches of one table under one schema, in stream order.

    Args:
        batches: At least one batch.
        truncated: The position of the TRUNCATE that empties the table before these changes; None: there was none.
        soft_delete: Whether deleted rows are kept, see `NetEffect`.

    Raises:
        BadValue: A text is no value of its column's type.
        UnknownValue: An unsent value cannot be found; only in tables without a key.
    """
    rows = BatchRows(batches, soft_delete=soft_delete)
    if (rows.ops == INSERT).all():
        # The source keeps keys unique, so no two inserts share a key.
        return NetEffect(rows.schema, truncated, appends=rows.new_frame(np.arange(len(rows))))
    if not rows.key:
        return compact_multiset(rows, truncated)
    touches = find_touches(rows)
    kept, present_before = touches.kept, touches.first_found
    stays = kept != NONE
    chosen = kept[stays]
    if soft_delete:
        deleted = stays & (touches.last_fill == NONE)
        rows.mark_deleted(kept[deleted], touches.row[touches.last_touch[deleted]])
    appends, upserts = np.sort(chosen[~present_before[stays]]), np.sort(chosen[present_before[stays]])
    deletes = touches.key_frame(touches.last_touch[~stays & present_before])
    unsent = find_unsent_values(rows, touches, chosen)
    if unsent is None:
        return NetEffect(
            rows.schema,
            truncated,
            appends=rows.new_frame(appends),
            upserts=rows.new_frame(upserts),
            deletes=deletes,
        )
    return unsent.net_effect(truncated, appends, upserts, deletes)
