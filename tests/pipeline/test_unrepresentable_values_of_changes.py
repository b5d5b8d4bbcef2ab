"""Bad values where a table changes its shape or its name, and where somebody empties the quarantine."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import pytest

from dbmazz_core.errors import BadValue
from dbmazz_core.model.policies import Mode
from tests.pipeline.test_quarantine import FAR, kept, quarantining
from tests.support.lab import BOTH, Lab

TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2), v text); ALTER TABLE t REPLICA IDENTITY {identity};"
    "INSERT INTO t SELECT i, i, 'v' || i FROM generate_series(1, 6) i"
)


def started(lab: Lab, identity: str) -> Lab:
    lab.execute(TABLE.format(identity=identity))
    lab.capture()
    return lab


@pytest.mark.each_value
@BOTH
@pytest.mark.parametrize("mode", Mode)
def test_rows_in_quarantine_go_with_a_table_that_is_renamed(lab: Lab, identity: str, mode: Mode) -> None:
    lab = started(quarantining(lab, mode=mode), identity)
    lab.transactions("INSERT INTO t VALUES (7, 'NaN')", "UPDATE t SET n = 'NaN' WHERE id = 1")
    lab.capture()
    lab.transactions("CREATE SCHEMA s; ALTER TABLE t SET SCHEMA s", "ALTER TABLE s.t RENAME TO u")
    lab = replace(lab, tables="s.u")
    lab.transactions("DELETE FROM s.u WHERE id = 7")  # finds no row, and nobody has taken it away
    assert not lab.capture().copy_anew
    assert len(kept(lab, "u")) == 2
    assert not kept(lab, "t")
    (state,) = lab.pipeline.status().tables
    assert (str(state.table), state.quarantined) == ("s.u", 2)
    lab.execute("UPDATE s.u SET n = 1 WHERE id = 1")
    lab.pipeline.snapshot([state.table])
    lab.capture()
    assert not kept(lab, "u")


@BOTH
@pytest.mark.parametrize("mode", Mode)
def test_somebody_empties_the_quarantine(lab: Lab, identity: str, mode: Mode) -> None:
    """The rows are still not in the table, and nobody has taken them away from there."""
    lab = started(quarantining(lab, mode=mode), identity)
    lab.transactions("INSERT INTO t VALUES (7, 'NaN')", "UPDATE t SET n = 'NaN' WHERE id < 3")
    lab.capture()
    with duckdb.connect(str(lab.path)) as connection:
        connection.execute("DELETE FROM _dbmazz.quarantine")
    lab.execute("DELETE FROM t WHERE id = 7")
    lab.capture()
    lab.execute("UPDATE t SET n = 2.5, v = 'back' WHERE id = 1; DELETE FROM t WHERE id = 2")
    lab.capture()
    assert not kept(lab)
    if mode is Mode.MIRROR:
        lab.assert_equal("t")


BAD_DEFAULTS = [
    ("numeric(9,2)", "'NaN'"),
    ("timestamp", FAR),
    ("int[]", "'{{1,2},{3,4}}'"),  # of other dimensions than the column's
]
THEN = pytest.mark.parametrize("then", [(), ("UPDATE t SET v = 'z' WHERE id = 3",)], ids=["then nothing", "then rows"])


@pytest.mark.each_value
@THEN
@pytest.mark.parametrize(("type", "default"), BAD_DEFAULTS)
def test_a_new_column_that_is_bad_in_older_rows_is_copied(
    lab: Lab, type: str, default: str, then: tuple[str, ...]
) -> None:
    """So that each of them goes to quarantine."""
    lab = quarantining(lab)
    lab.execute(TABLE.format(identity="DEFAULT"))
    lab.capture_and_compare("t")
    lab.transactions(f"ALTER TABLE t ADD COLUMN c {type} DEFAULT {default}", *then)
    result = lab.capture()
    assert "with a value in older rows" in result.copy_anew[lab.ref("t")]
    assert [(op, column) for op, column, _ in kept(lab)] == [("snapshot", "c")] * 6
    lab.execute("UPDATE t SET c = NULL, n = n")
    lab.capture_and_compare("t")


@THEN
@pytest.mark.parametrize(("type", "default"), BAD_DEFAULTS[:2])
def test_a_new_column_that_is_bad_in_older_rows_is_an_error(
    lab: Lab, type: str, default: str, then: tuple[str, ...]
) -> None:
    lab.execute(TABLE.format(identity="DEFAULT"))
    lab.capture_and_compare("t")
    lab.transactions(f"ALTER TABLE t ADD COLUMN c {type} DEFAULT {default}", *then)
    with lab.nothing_changes("public.t"), pytest.raises(BadValue) as error:
        lab.capture()
    assert "public.t, column c (" in error.value.what
    assert error.value.what.endswith("nothing of this flush was applied to the table")
    assert ("of the transaction" in error.value.what) == bool(then)
    lab.execute("UPDATE t SET c = NULL")
    lab.pipeline.snapshot([lab.ref("t")])
    lab.capture_and_compare("t")


@pytest.mark.parametrize("policy", ["error", "quarantine"])
def test_an_array_gets_another_dimension_between_rows(lab: Lab, policy: str) -> None:
    """The stream does not tell how many it has, only the catalog, as it is now: rows of before are no values then. It
    does not matter, the table is copied anew."""
    lab = quarantining(lab, policy)
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, a int[]); INSERT INTO t VALUES (1, '{1}'), (2, '{2}')")
    lab.capture_and_compare("t")
    lab.transactions(
        "INSERT INTO t VALUES (3, '{3}')",
        "ALTER TABLE t ALTER a TYPE int[][] USING ARRAY[a]",
        "INSERT INTO t VALUES (4, '{{4}}')",
    )
    assert lab.capture_and_compare("t").copy_anew
    assert not kept(lab)
