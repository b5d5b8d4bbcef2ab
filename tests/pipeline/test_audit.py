"""Facts about the rows of tables in the destination: their number, whether keys are unique, quarantine."""

from __future__ import annotations

import duckdb
import pytest

from dbmazz_core.model.policies import BadValuePolicy, Mode
from dbmazz_core.model.table_audit import TableAudit
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import TableConfig
from dbmazz_core.table_ref import TableRef
from tests.support.lab import Lab

T, WITHOUT_KEY = TableRef("public", "t"), TableRef("public", "without_key")


@pytest.fixture
def captured(lab: Lab) -> Lab:
    lab.execute(
        'CREATE TABLE t ("Id" int, part text, n numeric(6,2), PRIMARY KEY ("Id", part)); '
        "INSERT INTO t SELECT i, 'p', i FROM generate_series(1, 5) i; "
        "CREATE TABLE without_key (n int); INSERT INTO without_key VALUES (1), (1)"
    )
    return lab


def duplicate(lab: Lab) -> None:
    """By hand: two keys are there twice, one of them three times."""
    with duckdb.connect(str(lab.path)) as connection:
        connection.execute('INSERT INTO public.t FROM public.t WHERE "Id" < 3')
        connection.execute('INSERT INTO public.t FROM (FROM public.t WHERE "Id" = 1 LIMIT 1)')


def test_rows_and_keys(captured: Lab) -> None:
    captured.capture()
    key = ("Id", "part")
    never = TableRef("public", "never")
    assert captured.pipeline.audit([T, WITHOUT_KEY, never]) == {
        T: TableAudit(5, Mode.MIRROR, key, 0),
        WITHOUT_KEY: TableAudit(2, Mode.MIRROR),
    }
    duplicate(captured)
    assert captured.pipeline.audit([T])[T] == TableAudit(8, Mode.MIRROR, key, 2)
    assert captured.pipeline.audit([T], max_rows=8)[T].duplicated_keys == 2
    assert captured.pipeline.audit([T], max_rows=7)[T] == TableAudit(8, Mode.MIRROR, key, None)


@pytest.mark.parametrize(("mode", "rows", "duplicated"), [(Mode.SOFT_DELETE, 4, 0), (Mode.CHANGELOG, 6, None)])
def test_modes(captured: Lab, mode: Mode, rows: int, duplicated: int | None) -> None:
    """A deleted row that is kept does not count, and keys of a changelog may repeat."""
    lab = captured.kept(mode)
    lab.capture()
    lab.execute('DELETE FROM t WHERE "Id" = 1')
    lab.capture()
    audit = lab.pipeline.audit([T])[T]
    assert (audit.mode, audit.rows, audit.duplicated_keys) == (mode, rows, duplicated)


def test_quarantine(captured: Lab) -> None:
    lab = captured.configured(tables=TableConfig(on_bad_value=ByTable(BadValuePolicy.QUARANTINE)))
    lab.capture()
    lab.execute("UPDATE t SET n = 'NaN' WHERE \"Id\" < 3")
    lab.capture()
    audit = lab.pipeline.audit([T, WITHOUT_KEY])
    assert [*audit[T].quarantined.values()] == [2]
    assert not audit[WITHOUT_KEY].quarantined
    assert audit[T].rows == 3
