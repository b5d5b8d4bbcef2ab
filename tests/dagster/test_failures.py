"""What goes wrong is a failure that says what to do, and never shows a password."""

# No postponed annotations here: Dagster reads the annotations of an asset's function as objects.

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from dbmazz_core.errors import (
    AuthenticationFailed,
    BadValue,
    ConnectionFailed,
    DbmazzError,
    DestinationLocked,
    ReplicationInterrupted,
    SlotActive,
    SlotLost,
)
from dbmazz_dagster import DbmazzConfig, DbmazzResource, dbmazz_assets
from dbmazz_dagster.failures import to_failure
from tests.dagster.conftest import Shop, failure
from tests.support.reading import reading

SECRET = "wr0ng-s3cret"


def with_password(url: str, password: str) -> str:
    given = str(psycopg.conninfo.conninfo_to_dict(url)["password"])
    return url.replace(given, password)


@pytest.fixture
def holder(captured: Shop) -> Iterator[int]:
    """Somebody else who consumes the slot; its server process id."""
    connection = psycopg.pq.PGconn.connect(
        psycopg.conninfo.make_conninfo(
            captured.database.url, replication="database", application_name="the other one"
        ).encode()
    )
    start = (
        f'START_REPLICATION SLOT "{captured.slot}" LOGICAL 0/0 '
        f"(proto_version '1', publication_names '{captured.slot}_pub')"
    )
    assert connection.exec_(start.encode()).status == psycopg.pq.ExecStatus.COPY_BOTH
    yield connection.backend_pid
    connection.finish()


def test_wrong_password(shop: Shop) -> None:
    wrong = shop.with_env(SOURCE_URL=with_password(shop.env["SOURCE_URL"], SECRET))
    result = wrong.run()
    assert not result.success
    failed = failure(result)
    assert failed.metadata["error"].value == "AuthenticationFailed"
    assert failed.metadata["remedy"].value
    assert SECRET not in shop.log(result.run_id)
    assert not shop.destination.exists() or not shop.materializations(result)


def test_unreachable_server(shop: Shop) -> None:
    result = shop.with_env(SOURCE_URL=f"postgres://app:{SECRET}@127.0.0.1:1/shop").run()
    failed = failure(result)
    assert failed.metadata["error"].value == "ConnectionFailed"
    assert SECRET not in shop.log(result.run_id)


def test_missing_table(shop: Shop) -> None:
    result = shop.with_env(TABLES="public.customers, public.ordres").run()
    failed = failure(result)
    assert failed.metadata["error"].value == "TableNotFound"
    assert "ordres" in str(failed.description)


def test_two_runs_at_once(captured: Shop, holder: int) -> None:
    captured.database.execute("INSERT INTO orders VALUES (100, 1, 1, NULL)")
    failed = failure(captured.run())
    assert failed.metadata["error"].value == "SlotActive"
    assert str(holder) in str(failed.description)


def test_two_runs_at_once_name_the_run(captured: Shop, holder: int) -> None:
    job = captured.definitions().resolve_job_def("dbmazz_capture")
    other = captured.instance.create_run_for_job(
        job, tags={"dbmazz/slot": captured.slot}, status=dg.DagsterRunStatus.STARTED
    )
    failed = failure(captured.run())
    assert failed.metadata["held_by_run"].value == other.run_id


def test_locked_destination(captured: Shop) -> None:
    path = str(captured.destination)
    script = f"import duckdb, sys; c = duckdb.connect({path!r}); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        result = captured.with_env(SINK_LOCK_TIMEOUT_S="0.5").run()
        failed = failure(result)
        assert failed.metadata["error"].value == "DestinationLocked"
        assert str(process.pid) in str(failed.description)
        process.kill()


def test_a_variable_that_the_run_lacks(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE_URL", raising=False)
    resource = DbmazzResource(source_url=dg.EnvVar("NOWHERE_URL"), tables="orders")

    @dbmazz_assets(resource)
    def tables(context: dg.AssetExecutionContext) -> Iterator[object]:
        yield from resource.capture(context)

    result = dg.materialize([tables], instance=shop.instance, raise_on_error=False)
    failed = failure(result)
    assert failed.metadata["object"].value == "NOWHERE_URL"
    assert failed.metadata["error"].value == "ConfigError"


def test_a_malformed_setting_is_the_same_error_as_on_the_command_line(shop: Shop) -> None:
    resource = DbmazzResource(source_url=shop.env["SOURCE_URL"], tables="orders", replica_identity="most")

    @dbmazz_assets(resource)
    def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> Iterator[object]:
        yield from dbmazz.capture(context, config=DbmazzConfig())

    result = dg.materialize([tables], instance=shop.instance, resources={"dbmazz": resource}, raise_on_error=False)
    failed = failure(result)
    assert failed.metadata["object"].value == "REPLICA_IDENTITY"


def test_literal_urls_of_one_user_with_different_passwords(shop: Shop) -> None:
    """Both are shown without their password, and each still connects with its own."""
    wrong = DbmazzResource(source_url=with_password(shop.env["SOURCE_URL"], SECRET), tables="orders")
    right = DbmazzResource(source_url=shop.env["SOURCE_URL"], tables="orders")
    assert right.pipeline().source_status()
    with pytest.raises(AuthenticationFailed):
        wrong.pipeline().source_status()


@pytest.mark.parametrize(
    ("kind", "worth_it"),
    [
        (ConnectionFailed, True),
        (ReplicationInterrupted, True),
        (SlotActive, True),
        (DestinationLocked, True),
        (AuthenticationFailed, False),
        (SlotLost, False),
        (BadValue, False),
    ],
)
def test_what_may_be_retried(kind: type[DbmazzError], worth_it: bool) -> None:
    assert to_failure(kind("what", object="it", remedy="do")).allow_retries is worth_it


@pytest.mark.parametrize(("url", "retries"), [("postgres://app@127.0.0.1:1/shop", 1), ("wrong password", 0)])
def test_a_retry_policy_retries_what_is_worth_it(shop: Shop, url: str, retries: int) -> None:
    if url == "wrong password":
        url = with_password(shop.env["SOURCE_URL"], SECRET)
    resource = DbmazzResource(source_url=url, tables="orders", slot=shop.slot)

    @dbmazz_assets(resource, retry_policy=dg.RetryPolicy(max_retries=1))
    def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> Iterator[object]:
        yield from dbmazz.capture(context)

    result = dg.materialize([tables], instance=shop.instance, resources={"dbmazz": resource}, raise_on_error=False)
    restarted = [e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_RESTARTED]
    assert not result.success
    assert len(restarted) == retries


def test_interrupt_ends_at_a_flush_and_loses_nothing(captured: Shop) -> None:
    """Dagster's terminate is an interrupt in the main thread; what was committed by then is recorded."""
    for first in range(1000, 61_000, 1000):
        captured.database.execute(f"""
            INSERT INTO orders SELECT i, 1, 1, repeat('x', 200)
                FROM generate_series({first}, {first + 999}) i
        """)
    over = threading.Event()
    interrupter = threading.Thread(target=_interrupt_when_moving, args=(captured, over))
    interrupter.start()
    try:
        assert not captured.with_env(FLUSH_SIZE="1000").run().success
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        pass  # Dagster passes it on when a run in this process was interrupted
    finally:
        over.set()
        interrupter.join()
    (run, *_) = captured.instance.get_runs(limit=1)
    assert "ends at its next flush" in captured.log(run.run_id)
    with reading(captured.destination) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM public.orders").fetchone() or (0,)
    assert 10 < rows < 60_010
    assert captured.run().success
    captured.equal()


def _interrupt_when_moving(shop: Shop, over: threading.Event) -> None:
    """Wait until the window has confirmed something, then do what a terminal's Ctrl-C does."""
    position = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s"
    before = shop.database.fetch(position, shop.slot)
    while shop.database.fetch(position, shop.slot) == before:
        if over.wait(0.05):
            return  # it failed before: no signal then, it would hit the test runner
    if not over.is_set():
        os.kill(os.getpid(), signal.SIGINT)


def test_nothing_of_the_destination_directory_is_assumed(shop: Shop, tmp_path: Path) -> None:
    result = shop.with_env(SINK_URL=str(tmp_path / "missing" / "x.duckdb")).run()
    assert failure(result).metadata["remedy"].value
