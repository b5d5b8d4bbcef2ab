"""Columns, tables and schemas named like what dbmazz's own SQL names: no statement takes one for the other."""

from __future__ import annotations

import pytest

from dbmazz_core.config import SnapshotConfig, TableConfig
from dbmazz_core.table_options import BadValuePolicy, ByTable, Mode
from tests.engine.lab import Lab

ROW_MODES = pytest.mark.parametrize("mode", [Mode.MIRROR, Mode.SOFT_DELETE])


def kept(lab: Lab, mode: Mode, *, copied: bool = True, quarantine: bool = False) -> Lab:
    policy = ByTable(BadValuePolicy.QUARANTINE if quarantine else BadValuePolicy.ERROR)
    return lab.configured(
        tables=TableConfig(mode=ByTable(mode), on_bad_value=policy), snapshot=SnapshotConfig(enabled=copied)
    )


@ROW_MODES
@pytest.mark.parametrize("name", ["rowid", "ROWID"])
def test_a_column_rowid_with_few_values_and_with_none(lab: Lab, mode: Mode, name: str) -> None:
    lab = kept(lab, mode)
    lab.execute(f"""CREATE TABLE t ("{name}" int, note text); INSERT INTO t VALUES (7, 'a'), (7, 'b'), (NULL, 'c')""")
    lab.capture()
    lab.execute("INSERT INTO t VALUES (8, 'd'); DELETE FROM t WHERE note IN ('a', 'c')")
    lab.capture_and_compare("t")


@ROW_MODES
@pytest.mark.parametrize("copied", [True, False], ids=["copied", "streamed"])
@pytest.mark.parametrize("quarantine", [True, False], ids=["quarantine", "error"])
def test_a_column_rowid_that_is_not_unique(lab: Lab, mode: Mode, copied: bool, quarantine: bool) -> None:
    lab = kept(lab, mode, copied=copied, quarantine=quarantine)
    lab.execute("CREATE TABLE t (rowid int, note text, n numeric(5, 1))")
    rows = "INSERT INTO t SELECT i / 10, 'n' || i, i FROM generate_series(0, 29) i"
    if copied:
        lab.execute(rows)
    lab.capture()
    if not copied:
        lab.execute(rows)
        lab.capture_and_compare("t")
    if quarantine:
        lab.execute("INSERT INTO t VALUES (1, 'bad', 'NaN')")
        lab.capture()
        lab.execute("DELETE FROM t WHERE note = 'bad'")
    lab.execute("DELETE FROM t WHERE note = 'n3'; UPDATE t SET n = 0 WHERE note = 'n12'")
    lab.capture_and_compare("t")


@pytest.mark.parametrize("name", ["found", "Found"])
@pytest.mark.parametrize("copied", [True, False], ids=["copied", "streamed"])
def test_a_column_found_in_a_table_that_keeps_what_is_deleted(lab: Lab, name: str, copied: bool) -> None:
    lab = kept(lab, Mode.SOFT_DELETE, copied=copied)
    lab.execute(f'CREATE TABLE t (id int, "{name}" int, v text)')
    rows = "INSERT INTO t SELECT i % 3, 0, 'x' FROM generate_series(1, 24) i"
    if copied:
        lab.execute(rows)
    lab.capture()
    if not copied:
        lab.execute(rows)
        lab.capture()
    lab.execute("DELETE FROM t WHERE ctid IN (SELECT ctid FROM t WHERE id = 1 LIMIT 1)")
    lab.capture_and_compare("t")
