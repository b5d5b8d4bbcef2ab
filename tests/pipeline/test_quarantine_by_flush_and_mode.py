"""Quarantine with one flush or many, and in the modes that keep what went."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dbmazz_core.model.policies import Mode
from dbmazz_core.settings.config import FlushConfig
from tests.pipeline.test_quarantine import kept, quarantining
from tests.support.lab import BOTH, Lab, toast, variant


@pytest.mark.parametrize(
    ("identity", "seed"),
    [
        ("DEFAULT", 0),
        ("FULL", 1),
        *(variant(identity, seed) for identity, seed in [("DEFAULT", 1), ("DEFAULT", 2), ("FULL", 0), ("FULL", 2)]),
    ],
)
def test_flushes_make_no_difference(lab: Lab, tmp_path: Path, identity: str, seed: int) -> None:
    """Whatever happens, with one flush or one a transaction: the same table, the same quarantine, no row is stale."""
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2), v int, big text);"
        f"ALTER TABLE t REPLICA IDENTITY {identity}"
    )
    lab = quarantining(lab)
    many = replace(lab.configured(flush=FlushConfig(size=1), slot=f"{lab.slot}_many"), path=tmp_path / "many.duckdb")
    lab.capture()
    many.capture()
    chance = random.Random(seed)
    statements = []
    for step in range(150):
        one, other = chance.randint(1, 8), chance.randint(1, 8)
        number = chance.choice(["'NaN'", str(step)])
        statements.append(
            chance.choice(
                [
                    f"INSERT INTO t VALUES ({one}, {number}, {step}, {toast(step)}) ON CONFLICT DO NOTHING",
                    f"INSERT INTO t VALUES ({one}, {number}, {step}, 'small') ON CONFLICT DO NOTHING",
                    f"UPDATE t SET n = {number} WHERE id = {one}",
                    f"UPDATE t SET v = {step} WHERE id = {one}",
                    f"UPDATE t SET big = {toast(step)}, v = {step} WHERE id = {one}",
                    f"UPDATE t SET id = {other}, n = {number} WHERE id = {one}"
                    f" AND NOT EXISTS (SELECT FROM t WHERE id = {other})",
                    f"DELETE FROM t WHERE id = {one}",
                ]
            )
        )
    lab.transactions(*statements)
    lab.capture()
    many.capture()
    assert kept(lab) == kept(many)
    assert kept(lab)
    assert sorted(lab.rows("FROM public.t")) == sorted(many.rows("FROM public.t"))
    good = lab.database.fetch("SELECT id, n, v, big FROM t WHERE n <> 'NaN'")
    assert set(lab.rows("FROM public.t")) <= set(good)
    if identity == "FULL":
        assert set(lab.rows("FROM public.t")) == set(good)
    lab.execute("UPDATE t SET n = 1, big = 'small'")
    lab.capture_and_compare("t")


@pytest.mark.each_value
@BOTH
@pytest.mark.parametrize("mode", [Mode.SOFT_DELETE, Mode.CHANGELOG])
@pytest.mark.parametrize("size", [1, 1000])
def test_the_other_modes(lab: Lab, identity: str, mode: Mode, size: int) -> None:
    lab = quarantining(lab, mode=mode).configured(flush=FlushConfig(size=size))
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2), v int, big text);"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        f"INSERT INTO t SELECT i, i, i, {toast('x')} FROM generate_series(1, 6) i"
    )
    lab.capture()
    lab.transactions(
        "UPDATE t SET n = 'NaN' WHERE id = 1",
        f"UPDATE t SET n = 'NaN', big = {toast('other')} WHERE id = 2",
        "UPDATE t SET n = 2 WHERE id = 2",  # without its big value, unless FULL has it
        "UPDATE t SET n = 'NaN' WHERE id = 3",
        "DELETE FROM t WHERE id = 3",
        "UPDATE t SET n = 'NaN' WHERE id = 4",
        "UPDATE t SET n = 4, big = 'sent' WHERE id = 4",
        "UPDATE t SET id = 50, n = 'NaN' WHERE id = 5",
        "INSERT INTO t VALUES (7, 'NaN', 7, NULL)",
    )
    lab.capture()
    if mode is Mode.SOFT_DELETE:
        live = lab.rows("SELECT id, n, v, big FROM public.t WHERE NOT _dbmazz_deleted")
    else:
        live = folded(lab)
    good = lab.database.fetch("SELECT id, n, v, big FROM t WHERE n <> 'NaN'")
    expected = {row for row in good if identity == "FULL" or row[0] != 2}
    assert set(live) == expected
    assert [(op, column, row["id"]) for op, column, row in kept(lab) if column == "n"] == [
        ("update", "n", "1"), ("update", "n", "2"), ("update", "n", "3"), ("update", "n", "4"), ("update", "n", "50"),
        ("insert", "n", "7"),
    ]  # fmt: skip
    assert [row["id"] for _, column, row in kept(lab) if column == "big"] == ([] if identity == "FULL" else ["2"])


def folded(lab: Lab) -> list[tuple[Any, ...]]:
    """A changelog as the rows that are there now."""
    return lab.rows(
        "SELECT * EXCLUDE (gone) FROM (SELECT id, arg_max(n, place) AS n, arg_max(v, place) AS v, "
        "arg_max(big, place) AS big, "
        "arg_max(gone, place) AS gone FROM (SELECT *, _dbmazz_op = 'delete' AS gone, "
        "_dbmazz_commit_lsn::HUGEINT * 1000 + 2 * coalesce(_dbmazz_ordinal, 0) + 1 AS place FROM public.t "
        "WHERE _dbmazz_op <> 'delete' UNION ALL BY NAME "
        "SELECT *, _dbmazz_old_id AS id, true AS gone, "
        "_dbmazz_commit_lsn::HUGEINT * 1000 + 2 * coalesce(_dbmazz_ordinal, 0) AS place FROM (SELECT * EXCLUDE (id) "
        "FROM public.t WHERE len(_dbmazz_known_old) > 0)) GROUP BY id) WHERE NOT gone"
    )
