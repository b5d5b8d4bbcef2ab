"""Names that dbmazz leaves on runs and assets, so that sensor, resource and assets find each other.

A run carries `dbmazz/slot`: whoever asks whether a window of a slot is under way asks for that tag. Runs that
the sensor requests carry the position they start from and the attempt besides, which make its run keys.
"""

from __future__ import annotations

from typing import Final

#: Run tag: the replication slot that the run consumes.
SLOT_TAG: Final = "dbmazz/slot"
#: Run tag: the slot's confirmed LSN when the sensor asked for the run.
FROM_LSN_TAG: Final = "dbmazz/from_lsn"
#: Run tag: which request for a window from that LSN this is, from 1.
ATTEMPT_TAG: Final = "dbmazz/attempt"
#: Run tag: why the sensor asked.
REASON_TAG: Final = "dbmazz/reason"

#: Metadata of a table's asset: the table, as `TABLES` spells it.
TABLE_METADATA: Final = "dbmazz/table"
#: Metadata of the checkpoint asset: the slot.
CHECKPOINT_METADATA: Final = "dbmazz/checkpoint_of"
