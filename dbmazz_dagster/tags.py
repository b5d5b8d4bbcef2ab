"""Names of the tags of runs and the metadata of assets, by which sensor, resource and assets find each other.

Every run of a capture has the tag `dbmazz/slot`; the sensor finds unfinished windows of a slot by it. A run that the
sensor requests also has the LSN that it starts from and the number of the attempt, which are parts of its run key.
"""

from __future__ import annotations

from typing import Final

#: Run tag: the replication slot that the run consumes.
SLOT_TAG: Final = "dbmazz/slot"
#: Run tag: the slot's confirmed LSN when the sensor requested the run.
FROM_LSN_TAG: Final = "dbmazz/from_lsn"
#: Run tag: number of the sensor's request for a window from that LSN, from 1.
ATTEMPT_TAG: Final = "dbmazz/attempt"
#: Run tag: the checkpoint at the end of the run's window; empty while the window runs, and if it failed.
END_LSN_TAG: Final = "dbmazz/end_lsn"
#: Run tag: the reason of the sensor's request.
REASON_TAG: Final = "dbmazz/reason"

#: Name of the check on each table's asset that a window evaluates for tables that do not stream.
IS_STREAMING: Final = "is_streaming"

#: Name of the check on each table's asset: every key is unique in the destination.
KEY_UNIQUE: Final = "key_is_unique"
#: Name of the check on the asset of each table whose bad values go to quarantine.
QUARANTINE_EMPTY: Final = "quarantine_is_empty"

#: Metadata of a table's asset: the name of the table, as `TABLES` spells it.
TABLE_METADATA: Final = "dbmazz/table"
#: Metadata of a table's asset: the key of the source's table.
SOURCE_METADATA: Final = "dbmazz/source"
#: Metadata of the checkpoint's asset: the name of the slot.
CHECKPOINT_METADATA: Final = "dbmazz/checkpoint_of"
