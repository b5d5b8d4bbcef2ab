"""Copies of real tables in binary: values, rows and answers of any size, and connections that end."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbmazz_core.engine.progress import Progress
from dbmazz_core.errors import BadValue, ReplicationInterrupted, SourceError
from dbmazz_core.model.policies import Mode
from dbmazz_core.settings.config import SnapshotConfig
from tests.support.lab import Lab
from tests.support.postgres_fixtures import create_database
from tests.support.tls_server import tls_server

#: The server sends its reason unless it is in the middle of a row.
ENDED = r"broke: (terminating connection due to administrator command|the server closed the connection|.*reset)"
#: Random values of every type that has a binary form, and NULLs.
RANDOM = """
    CREATE TABLE t AS SELECT i AS id,
        CASE WHEN i % 7 > 0 THEN ((random() - 0.5) * 1.9e9)::int END AS i4,
        ((random() - 0.5) * 1.8e19)::bigint AS i8,
        ((random() - 0.5) * 60000)::smallint AS i2,
        CASE WHEN i % 5 > 0 THEN random() < 0.5 END AS b,
        ((random() - 0.5) * power(10, random() * 40 - 20))::real AS f4,
        CASE i % 11 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE (random() - 0.5) * power(10, random() * 600 - 300)
            END::float8 AS f8,
        (((random() - 0.5) * power(10, random() * 10))::numeric)::numeric(12, 2) AS n2,
        (((random() - 0.5) * power(10, random() * 18))::numeric)::numeric(18, 0) AS n0,
        ((random() - 0.5) * power(10, random() * -15))::numeric(18, 17) AS n17,
        ((random() - 0.5)::numeric * 200)::numeric(9, 7) AS n7,
        CASE WHEN i % 13 > 0 THEN date '2000-01-01' + ((random() - 0.5) * 1400000)::int END AS d,
        CASE i % 17 WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity'
            ELSE timestamp '2000-01-01' + (random() - 0.5) * interval '4000 years' END AS ts,
        timestamptz '2000-01-01 00:00+00' + random() * interval '200000 years' AS tz,
        time '00:00' + random() * interval '24 hours' AS tm,
        gen_random_uuid() AS u,
        repeat(chr(300 + i % 400), i % 30) AS txt,
        decode(repeat(to_hex(i % 256), i % 20 * 2), 'hex') AS raw,
        jsonb_build_object('a', i, 'b', repeat('x', i % 40)) AS jb,
        json_build_array(i, NULL) AS js,
        CASE WHEN i % 3 > 0 THEN (i * 7919)::oid END AS o
    FROM generate_series(1, 20000) i;
    ALTER TABLE t ADD PRIMARY KEY (id)
"""


def test_random_values_of_all_binary_types(lab: Lab) -> None:
    lab.execute(RANDOM)
    lab.capture_and_compare("t")
    lab.execute("UPDATE t SET i4 = 0 WHERE id % 10 = 0; INSERT INTO t (id) VALUES (0)")
    lab.capture_and_compare("t")


@pytest.mark.parametrize("mode", [Mode.SOFT_DELETE, Mode.CHANGELOG])
def test_random_values_in_other_modes(lab: Lab, mode: Mode) -> None:
    lab.execute(RANDOM)
    lab.kept(mode).capture_and_compare("t")


def test_values_that_polars_cannot_hold_are_exact(lab: Lab) -> None:
    """In a table with so many rows that some blocks have such values and others have none."""
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, tm time, n numeric(8,3), filler text);"
        "INSERT INTO t SELECT i, CASE i WHEN 5 THEN time '24:00:00' ELSE '12:34:56.78' END, i / 8.0, repeat('x', 200) "
        "FROM generate_series(1, 40000) i"
    )
    lab.capture_and_compare("t")
    assert lab.rows("SELECT CAST(tm AS VARCHAR) FROM public.t WHERE id IN (5, 6) ORDER BY id") == [
        ("24:00:00",),
        ("12:34:56.78",),
    ]


@pytest.mark.parametrize(
    ("type", "value"),
    [("numeric(8,3)", "NaN"), ("timestamp", "294276-12-31 23:59:59"), ("timestamptz", "294276-12-31 23:59:59+00")],
)
def test_a_value_beyond_the_destination_names_its_row(lab: Lab, type: str, value: str) -> None:
    lab.execute(f"CREATE TABLE t (id int PRIMARY KEY, v {type}); INSERT INTO t VALUES (1, NULL), (7, '{value}')")
    with pytest.raises(BadValue, match=rf"column v .*row id = 7: the value '{value.replace('+', '.')}"):
        lab.capture()


def test_rows_of_any_size(lab: Lab) -> None:
    """Longer than a block, as long as a block, and many columns."""
    columns = ", ".join(f"c{n} int" for n in range(300))
    lab.execute(
        "CREATE TABLE long (id int PRIMARY KEY, a text, b bytea);"
        "INSERT INTO long SELECT i, repeat('d', i * 1300000), decode(repeat('0064', i), 'hex') "
        "FROM generate_series(0, 5) i;"
        f"CREATE TABLE wide (id int PRIMARY KEY, {columns});"
        "INSERT INTO wide (id, c7, c299) VALUES (1, 1, 1), (2, 2, 2);"
        "CREATE TABLE empty (id int PRIMARY KEY, v text)"
    )
    lab.capture_and_compare("long", "wide", "empty")


def test_several_workers_copy_all_ranges_once(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE t (id int, v text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 30000) i"
    )
    lab.execute("ANALYZE t")
    lab = lab.configured(snapshot=SnapshotConfig(chunk_size=1000, parallel_workers=4))
    (counts,) = lab.capture_and_compare("t").tables.values()
    assert counts.snapshot_rows == 30000


def test_a_worker_whose_server_process_is_ended(lab: Lab) -> None:
    """The table keeps its rows, and the next run copies it whole."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0, 'old')")
    lab.capture_and_compare("t")
    lab.execute("INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 100000) i")
    ended = 0

    def end_workers(report: Progress) -> None:
        nonlocal ended
        if report.phase == "snapshot" and report.rows and not ended:
            found = lab.database.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'dbmazz snapshot' AND query LIKE 'COPY%'"
            )
            ended = len(found)

    ref = lab.ref("t")
    with pytest.raises(ReplicationInterrupted, match=ENDED):
        lab.capture(progress=end_workers, resnapshot=(ref,))
    assert ended
    assert lab.rows("SELECT v FROM public.t WHERE id = 0") == [("old",)]
    lab.capture_and_compare("t")


def test_a_query_that_fails_in_the_middle_names_the_table(lab: Lab) -> None:
    """In a column that arrives as text, whose output function fails for a row."""
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v numeric); INSERT INTO t SELECT i, i FROM generate_series(1, 5000) i;"
        "CREATE PUBLICATION dbmazz_pub FOR TABLE t WHERE (1 / (id - 4000) < 2) WITH (publish_via_partition_root)"
    )
    with pytest.raises(SourceError, match=r"copying public\.t: .*division by zero"):
        lab.capture()


def test_an_encrypted_connection(tmp_path: Path) -> None:
    """libpq reads it; the rows are the same."""
    with tls_server() as server:
        database = create_database(server)
        encrypted = database.url + ("&" if "?" in database.url else "?") + "sslmode=require"
        lab = Lab(database, tmp_path / "tls.duckdb", settings={"url": encrypted})
        lab.execute(RANDOM)
        lab.execute("CREATE TABLE long AS SELECT i AS id, repeat('d', i * 1300000) AS a FROM generate_series(0, 5) i")
        lab.execute("CREATE TABLE empty (id int PRIMARY KEY, v text); CREATE TABLE bare ()")
        lab.capture_and_compare("t", "long", "empty")
