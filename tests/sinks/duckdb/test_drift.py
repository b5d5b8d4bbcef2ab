"""A destination that somebody changed by hand: an error that names it and a remedy that works; nothing is applied."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import pytest

from dbmazz_core.errors import DestinationConflict
from dbmazz_core.model.policies import Mode
from dbmazz_core.settings.config import FlushConfig
from tests.support.lab import Lab, toast

TABLES = (
    "CREATE TABLE t (id int, part text, n int, big text, PRIMARY KEY (id, part));"
    f"INSERT INTO t SELECT i, 'p', i, CASE i WHEN 9 THEN {toast(9)} END FROM generate_series(1, 9) i;"
    "CREATE TABLE bag (a int, f float8); INSERT INTO bag VALUES (1, 0), (1, 0), (NULL, 'NaN');"
    "CREATE TABLE other (id int PRIMARY KEY)"
)
ROWS = pytest.mark.parametrize("mode", [Mode.MIRROR, Mode.SOFT_DELETE])


@pytest.fixture
def start(lab: Lab) -> Callable[[Mode], Lab]:
    def begin(mode: Mode) -> Lab:
        lab.execute(TABLES)
        kept = lab.kept(mode)
        kept.capture()
        return kept

    return begin


def by_hand(lab: Lab, *statements: str) -> None:
    with duckdb.connect(str(lab.path)) as destination:
        for statement in statements:
            destination.execute(statement)


def conflict(lab: Lab, match: str, table: str = "t", *, times: int = 1) -> DestinationConflict:
    """Capture fails, as often as one tries, and changes nothing."""
    for _ in range(times):
        with lab.nothing_changes("public.t", "public.bag", "public.other"):
            with pytest.raises(DestinationConflict, match=match) as info:
                lab.capture()
            assert info.value.object == f"public.{table}"
            assert f"dbmazz snapshot --tables 'public.{table}'" in info.value.remedy
    return info.value


def mend(lab: Lab, table: str = "t") -> None:
    """Do what the error says, and go on."""
    lab.pipeline.snapshot([lab.ref(table)])
    lab.assert_equal(table)
    lab.transactions("UPDATE t SET n = n + 1", "DELETE FROM t WHERE id = 3", "DELETE FROM bag WHERE a = 1")
    lab.capture_and_compare("t", "bag", "other")


# -- rows


@pytest.mark.each_value
@ROWS
@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM t WHERE id = 2",
        "UPDATE t SET n = 0 WHERE id < 5",
        "UPDATE t SET id = 20 WHERE id = 2",
        "UPDATE t SET n = 0 WHERE id = 2; DELETE FROM t WHERE id = 2",
    ],
)
def test_a_row_was_deleted(start: Callable[[Mode], Lab], mode: Mode, change: str) -> None:
    lab = start(mode)
    by_hand(lab, "DELETE FROM public.t WHERE id = 2")
    lab.transactions("INSERT INTO other VALUES (1)", change)
    says = r"public\.t in .* was changed by hand: the row with id = 2, part = p that transaction \d+ "
    error = conflict(lab, says, times=2)
    assert "is missing" in str(error)
    mend(lab)


@pytest.mark.each_value
@ROWS
@pytest.mark.parametrize(
    "change", ["DELETE FROM t WHERE id = 2", "UPDATE t SET n = 0", "UPDATE t SET id = 20 WHERE id = 2"]
)
def test_a_row_was_doubled(start: Callable[[Mode], Lab], mode: Mode, change: str) -> None:
    lab = start(mode)
    by_hand(lab, "INSERT INTO public.t FROM public.t WHERE id = 2")
    lab.transactions(change)
    conflict(lab, "the row with id = 2, part = p .* exists 2 times instead of once")
    mend(lab)


def test_a_row_that_somebody_marked_as_deleted_is_missing(start: Callable[[Mode], Lab]) -> None:
    lab = start(Mode.SOFT_DELETE)
    by_hand(lab, "UPDATE public.t SET _dbmazz_deleted = true WHERE id = 2")
    lab.transactions("UPDATE t SET n = 0 WHERE id = 2")
    conflict(lab, "the row with id = 2, part = p .* is missing")
    mend(lab)


@pytest.mark.each_value
@ROWS
@pytest.mark.parametrize(
    ("deleted", "change", "says"),
    [
        ("a = 1", "DELETE FROM bag WHERE a = 1", "the row with a = 1, f = 0.0 .* is missing"),
        ("rowid = 0", "DELETE FROM bag WHERE a = 1", "the row with a = 1, f = 0.0 .* exists once instead of 2 times"),
        ("a IS NULL", "UPDATE bag SET a = 7 WHERE a IS NULL", "the row with a = NULL, f = nan .* is missing"),
    ],
)
def test_a_row_without_a_key_was_deleted(
    start: Callable[[Mode], Lab], mode: Mode, deleted: str, change: str, says: str
) -> None:
    lab = start(mode)
    by_hand(lab, f"DELETE FROM public.bag WHERE {deleted}")
    lab.transactions(change)
    conflict(lab, says, "bag")
    mend(lab, "bag")


def test_a_row_is_missing_in_a_transaction_too_large_for_memory(start: Callable[[Mode], Lab]) -> None:
    """An earlier piece has changed the table, so that what is committed does not tell which row it is."""
    lab = start(Mode.MIRROR).configured(flush=FlushConfig(max_bytes=1_000_000))
    by_hand(lab, "DELETE FROM public.t WHERE id = 2")
    lab.transactions(
        "INSERT INTO t SELECT i, repeat('x', 300), i FROM generate_series(100, 40000) i; DELETE FROM t WHERE id = 2"
    )
    conflict(
        lab, r"public\.t in .* by hand: of 1 rows that this flush changes, the first in transaction \d+,.* 0 were found"
    )
    mend(lab)


def test_rows_that_were_added_stay_until_a_change_meets_them(start: Callable[[Mode], Lab]) -> None:
    """It is by the counts that a change by hand is found; a copy leaves nothing of it."""
    lab = start(Mode.MIRROR)
    by_hand(lab, "INSERT INTO public.t VALUES (77, 'mine', 0, NULL)")
    lab.transactions("UPDATE t SET n = 0")
    lab.capture()
    assert lab.rows("SELECT count(*) FROM public.t") == [(10,)]
    mend(lab)


def test_a_row_in_quarantine_is_not_missing(start: Callable[[Mode], Lab]) -> None:
    lab = start(Mode.MIRROR)
    by_hand(
        lab,
        "DELETE FROM public.t WHERE id = 2",
        "INSERT INTO _dbmazz.quarantine VALUES ('s', 'public', 't', 1, 1, 1, 'insert', 'n', 'why', '{}', now())",
    )
    lab.transactions("DELETE FROM t WHERE id = 2", "UPDATE t SET n = 0")
    lab.capture_and_compare("t")


# -- columns, and the table itself


@pytest.mark.each_value
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ALTER TABLE public.t DROP COLUMN n", "was changed by hand; it lacks: n INTEGER$"),
        ("ALTER TABLE public.t ALTER n TYPE BIGINT", "it lacks: n INTEGER; it also has: n BIGINT$"),
        ("ALTER TABLE public.t ADD COLUMN mine INTEGER", "it also has: mine INTEGER$"),
        ("ALTER TABLE public.t RENAME n TO m", "it lacks: n INTEGER; it also has: m INTEGER$"),
    ],
)
def test_columns_were_changed(start: Callable[[Mode], Lab], mode: Mode, change: str, says: str) -> None:
    lab = start(mode)
    lab.transactions("DELETE FROM t WHERE id = 1", "UPDATE t SET n = 0")
    by_hand(lab, change)
    lab.assert_found_by_check(conflict(lab, f"(?m){says}"))
    mend(lab)


@pytest.mark.parametrize("mode", [Mode.SOFT_DELETE, Mode.CHANGELOG])
def test_columns_of_a_mode_were_dropped(start: Callable[[Mode], Lab], mode: Mode) -> None:
    lab = start(mode)
    lab.transactions("DELETE FROM t WHERE id = 1")
    lab.capture()
    by_hand(lab, "ALTER TABLE public.t DROP COLUMN _dbmazz_commit_ts")
    lab.assert_found_by_check(conflict(lab, "(?m)lacks: _dbmazz_commit_ts TIMESTAMP WITH TIME ZONE$"))
    mend(lab)


@pytest.mark.parametrize("mode", Mode)
def test_the_table_was_dropped(start: Callable[[Mode], Lab], mode: Mode) -> None:
    lab = start(mode)
    by_hand(lab, "DROP TABLE public.t")
    with pytest.raises(DestinationConflict, match=r"table public\.t in .* does not exist any more") as info:
        lab.capture()
    lab.assert_found_by_check(info.value)
    assert "dbmazz snapshot --tables 'public.t'" in info.value.remedy
    mend(lab)


def test_a_view_took_the_tables_place(start: Callable[[Mode], Lab]) -> None:
    lab = start(Mode.MIRROR)
    by_hand(lab, "ALTER TABLE public.t RENAME TO mine", "CREATE VIEW public.t AS FROM public.mine")
    for act in (lab.capture, lambda: lab.pipeline.snapshot([lab.ref("t")])):
        with pytest.raises(DestinationConflict, match=r"a view in place of the table public\.t") as info:
            act()
    assert 'DROP VIEW "public"."t"; in DuckDB' in info.value.remedy
    by_hand(lab, 'DROP VIEW "public"."t"')
    mend(lab)


def test_a_constraint_was_added(start: Callable[[Mode], Lab]) -> None:
    lab = start(Mode.MIRROR)
    by_hand(lab, "CREATE UNIQUE INDEX mine ON public.t (n)")
    lab.transactions("UPDATE t SET n = 5")
    with lab.nothing_changes("public.t"), pytest.raises(DestinationConflict, match="a constraint that dbmazz did not"):
        lab.capture()
    lab.pipeline.snapshot([lab.ref("t")])
    mend(lab)


@pytest.mark.parametrize("mode", Mode)
def test_a_constraint_goes_with_a_copy(start: Callable[[Mode], Lab], mode: Mode) -> None:
    """A changelog, too, which otherwise goes on in the same table."""
    lab = start(mode)
    by_hand(lab, "ALTER TABLE public.t ALTER n SET NOT NULL")
    lab.transactions("UPDATE t SET n = NULL WHERE id = 2", "DELETE FROM t WHERE id = 3")
    with lab.nothing_changes("public.t"), pytest.raises(DestinationConflict, match="a constraint that dbmazz") as info:
        lab.capture()
    assert info.value.remedy.endswith("dbmazz snapshot --tables 'public.t'")
    lab.pipeline.snapshot([lab.ref("t")])
    lab.capture_and_compare("t")
    lab.execute("UPDATE t SET n = NULL; DELETE FROM t WHERE id = 1")
    lab.capture_and_compare("t")


@pytest.mark.parametrize(
    ("change", "mode"),
    [("DROP COLUMN n", Mode.MIRROR), ("RENAME n TO m", Mode.SOFT_DELETE), ("DROP COLUMN n", Mode.CHANGELOG),
     ("RENAME TO u", Mode.MIRROR)],
)  # fmt: skip
def test_an_index_keeps_a_table_from_being_altered(start: Callable[[Mode], Lab], mode: Mode, change: str) -> None:
    lab = start(mode)
    by_hand(lab, 'CREATE INDEX "Mine" ON public.t (id)')
    lab.execute("DELETE FROM t WHERE id = 3")
    lab.capture_and_compare("t")
    name = "u" if change == "RENAME TO u" else "t"
    lab.transactions(f"ALTER TABLE t {change}", f"DELETE FROM {name} WHERE id = 1")
    with lab.nothing_changes("public.t"), pytest.raises(DestinationConflict, match='did not create: "Mine";') as info:
        lab.capture()
    statement = info.value.remedy.split(": ")[1].split(" or re-snapshot")[0]
    assert statement == 'DROP INDEX "public"."Mine";'
    by_hand(lab, statement)
    lab.capture_and_compare(name)


def test_an_index_is_not_in_the_way_of_a_type_that_is_the_same_in_duckdb(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v varchar(5)); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    lab.capture_and_compare("t")
    by_hand(lab, "CREATE INDEX mine ON public.t (v)")
    lab.transactions("ALTER TABLE t ALTER v TYPE text", "UPDATE t SET v = 'longer than five' WHERE id = 1")
    assert not lab.capture_and_compare("t").copy_anew


@pytest.mark.parametrize("mode", Mode)
def test_an_existing_table_of_another_shape_is_not_touched(lab: Lab, mode: Mode) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    by_hand(lab, "CREATE SCHEMA public; CREATE TABLE public.t AS SELECT 'precious' AS id")
    lab = lab.kept(mode)
    with pytest.raises(DestinationConflict, match=r"already has a table public\.t that dbmazz did not create") as info:
        lab.capture()
    assert 'ALTER TABLE "public"."t" RENAME TO' in info.value.remedy
    assert lab.rows("SELECT * FROM public.t") == [("precious",)]
    by_hand(lab, "ALTER TABLE public.t RENAME TO mine")
    lab.capture_and_compare("t")
    assert lab.rows("SELECT * FROM public.mine") == [("precious",)]
