"""Finite numbers beyond the range of what they become: bad values, and never Infinity."""

from __future__ import annotations

import pytest

from dbmazz_core.errors import BadValue
from dbmazz_core.model.policies import BadValuePolicy, NumericForm
from dbmazz_core.model.records import Insert
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import TableConfig
from tests.support.lab import Lab

#: Of a table with a numeric that becomes a double, and an array of them.
TABLE = "CREATE TABLE t (id int PRIMARY KEY, x numeric, a numeric[])"
GOOD = (
    "INSERT INTO t VALUES (1, 'Infinity', '{-Infinity,NaN,1e-400,-1e-400,1.7976931348623157e308}'), (2, 1e-400, '{}')"
)
BAD = pytest.mark.parametrize(
    ("values", "column"),
    [
        ("1e400, '{}'", "x"),
        ("-1e400, '{}'", "x"),
        ("1.8e308, '{}'", "x"),
        ("1, '{1,1e400}'", "a"),
        ("1, '{-1e400,Infinity}'", "a"),
    ],
)
WAYS = pytest.mark.parametrize("copied", [True, False], ids=["copied", "streamed"])


def doubles(lab: Lab, policy: BadValuePolicy = BadValuePolicy.ERROR) -> Lab:
    return lab.configured(tables=TableConfig(on_bad_value=ByTable(policy)), source={"numeric_as": NumericForm.DOUBLE})


def prepare(lab: Lab, values: str, copied: bool) -> None:
    lab.execute(TABLE)
    if not copied:
        lab.capture()
    lab.execute(f"{GOOD}; INSERT INTO t VALUES (3, {values})")


@pytest.mark.each_value
@WAYS
@BAD
def test_a_number_beyond_a_double_stops_the_run(lab: Lab, values: str, column: str, copied: bool) -> None:
    lab = doubles(lab)
    prepare(lab, values, copied)
    with pytest.raises(BadValue, match=rf"column {column} \(numeric.* cannot be held by") as info:
        lab.capture()
    assert info.value.object == f"public.t.{column}"


@pytest.mark.each_value
@WAYS
@BAD
def test_a_number_beyond_a_double_goes_to_quarantine(lab: Lab, values: str, column: str, copied: bool) -> None:
    lab = doubles(lab, BadValuePolicy.QUARANTINE)
    prepare(lab, values, copied)
    lab.capture()
    assert lab.rows("SELECT row ->> 'id', column_name FROM _dbmazz.quarantine") == [("3", column)]
    inf = float("inf")
    rows = lab.rows("SELECT id, x, a FROM public.t ORDER BY id")
    assert rows[0][:2] == (1, inf)
    assert repr(rows[0][2]) == repr([-inf, float("nan"), 0.0, -0.0, 1.7976931348623157e308])
    assert rows[1] == (2, 0.0, [])


@BAD
def test_a_number_beyond_a_double_is_no_record(lab: Lab, values: str, column: str) -> None:
    lab = doubles(lab)
    lab.execute(TABLE)
    lab.capture()
    lab.execute(f"{GOOD}; INSERT INTO t VALUES (3, {values})")
    records = (record.columns for record in lab.pipeline.peek(10) if isinstance(record, Insert))
    inf = float("inf")
    assert repr([next(records), next(records)]) == repr(
        [
            {"id": 1, "x": inf, "a": [-inf, float("nan"), 0.0, -0.0, 1.7976931348623157e308]},
            {"id": 2, "x": 0.0, "a": []},
        ]
    )
    with pytest.raises(BadValue, match=f"column {column} ") as info:
        next(records)
    assert info.value.object == f"public.t.{column}"
