"""Binary intervals to texts that DuckDB reads as the same months, days and microseconds.

An interval is sent as microseconds (int64), days and months (int32). Source: interval_send (timestamp.c).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from dbmazz_core.connectors.sources.postgres.types.binary_fields import Fields
from dbmazz_core.model.stream import TextNeeded

_INT32, _INT64 = np.iinfo(np.int32), np.iinfo(np.int64)


def read_intervals(fields: Fields) -> pl.Series:
    """Return intervals as texts, dtype String, shape (n,): `14 months -3 days 1500000 microseconds`.

    Raises:
        TextNeeded: An interval is infinite (PostgreSQL 17).
    """
    fields.verify_length(16)
    us, days, months = fields.numbers(">i8"), fields.numbers(">i4", at=8), fields.numbers(">i4", at=12)
    for limit, of_months in ((_INT64.max, _INT32.max), (_INT64.min, _INT32.min)):
        if ((us == limit) & (days == of_months) & (months == of_months)).any():
            raise TextNeeded("an interval is infinite")
    parts = pl.DataFrame({"months": months, "days": days, "us": us})
    texts = parts.select(pl.format("{} months {} days {} microseconds", "months", "days", "us")).to_series()
    return texts if fields.valid is None else texts.set(pl.Series(~fields.valid), None)
