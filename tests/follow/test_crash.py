"""Killed, cut off, restarted while it follows: it goes on by itself, or the next one does, and nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.engine.follow_status import FollowPhase
from dbmazz_core.errors import AuthenticationFailed, ConnectionFailed, DestinationLocked, ReplicationInterrupted
from dbmazz_core.settings.config import FlushConfig
from tests.pipeline.test_crash import SETUP, TABLES, work
from tests.support.following import Follower, as_soon_as_free
from tests.support.lab import Lab
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, create_database
from tests.support.proxy_fixture import Proxy
from tests.support.reading import reading


@pytest.mark.parametrize("moment", ["before:1", "behind:1", "before:4", "behind:4"])
def test_killed_in_a_flush(lab: Lab, moment: str) -> None:
    lab.execute(SETUP)
    lab.capture()
    follower = Follower(lab.configured(flush=FlushConfig(size=500)), die_at=moment)
    work(lab, transactions=20)
    follower.process.join(60)
    assert follower.process.exitcode == -signal.SIGKILL
    follower.kill()
    assert lab.confirmed <= lab.checkpoint
    work(lab, transactions=2)
    with Follower(lab) as second:
        work(lab, transactions=2)
        second.catch_up()
        second.assert_equal(*TABLES)
    lab.capture_and_compare(*TABLES)


def test_killed_at_any_moment_under_load(lab: Lab) -> None:
    lab.execute(SETUP)
    moments = random.Random(7)
    for _ in range(5):
        follower = Follower(lab.configured(flush=FlushConfig(max_bytes=1 << 20)), interval_ms=20)
        work(lab, transactions=5, size=moments.choice((50, 5000)))
        time.sleep(moments.uniform(0.0, 1.5))
        follower.kill()
    with Follower(lab) as last:
        last.catch_up()
        last.assert_equal(*TABLES)


def test_walsender_and_connections_are_terminated(lab: Lab) -> None:
    lab.execute(SETUP)
    with Follower(lab) as follower:
        for backends in ("pg_stat_replication", "pg_stat_activity WHERE application_name = 'dbmazz'"):
            interruptions = follower.status.interruptions
            work(lab, transactions=3)
            lab.execute(f"SELECT pg_terminate_backend(pid) FROM {backends}")
            follower.wait(lambda n=interruptions: follower.status.interruptions > n)
            follower.wait(lambda: follower.status.phase is FollowPhase.STREAMING)
            work(lab, transactions=2)
            follower.catch_up()
            follower.assert_equal(*TABLES)


def test_network_breaks_and_comes_back(lab: Lab, proxy: Proxy) -> None:
    lab.execute(SETUP)
    lab.capture()
    with Follower(lab.configured(url=proxy.url(lab.database))) as follower:
        work(lab, transactions=3)
        proxy.cut()
        follower.wait(lambda: follower.status.interruptions)
        work(lab, transactions=3)
        follower.catch_up()
        follower.assert_equal(*TABLES)
    assert any("next attempt in" in message for message in follower.messages)


def test_ends_with_the_error_after_the_time_of_the_settings(lab: Lab, proxy: Proxy) -> None:
    lab.execute(SETUP)
    lab.capture()
    follower = Follower(lab.configured(url=proxy.url(lab.database)), retry_timeout_s=1.0)
    follower.wait(lambda: follower.streams)
    proxy.close()
    follower.process.join(60)
    with pytest.raises((ConnectionFailed, ReplicationInterrupted)):
        follower.end()


def test_error_that_a_person_must_solve_ends_it(lab: Lab) -> None:
    lab.execute(SETUP)
    with Follower(lab) as follower:
        lab.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
        lab.execute(f"SELECT pg_drop_replication_slot('{lab.slot}')")
        follower.process.join(60)
        assert type(follower.error).__name__ == "SlotNotFound", follower.error
        follower.error = None


def test_first_connection_must_succeed(lab: Lab) -> None:
    wrong = lab.configured(url=lab.database.url.replace("@", "x@", 1))
    with pytest.raises(AuthenticationFailed):
        wrong.pipeline.follow()


def test_reader_that_keeps_the_file_open_is_waited_for(lab: Lab) -> None:
    lab.execute(SETUP)
    patient = lab.configured(sink=replace(lab.pipeline.settings.sink, lock_timeout_s=0.3))
    with Follower(patient) as follower:
        follower.catch_up()

        def hold() -> None:
            with reading(lab.path):
                work(lab, transactions=2)
                follower.wait(lambda: isinstance(follower.status.error, DestinationLocked))

        as_soon_as_free(hold)
        follower.catch_up()
        follower.assert_equal(*TABLES)


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that tests crash."""
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as server:
        yield server


@pytest.fixture
def crashing(own_server: EmbeddedPostgres, duckdb_path: Path) -> Lab:
    return Lab(create_database(own_server), duckdb_path)


@pytest.mark.parametrize("how", ["walsender", "immediate", "fast"])
def test_server_crashes_or_restarts(crashing: Lab, how: str) -> None:
    lab, server = crashing, crashing.database.server
    lab.execute(SETUP)
    with Follower(lab) as follower:
        for _ in range(2):
            interruptions = follower.status.interruptions
            work(lab, transactions=5)
            if how == "walsender":
                ((pid,),) = lab.database.fetch("SELECT pid FROM pg_stat_replication")
                os.kill(pid, signal.SIGKILL)  # the server restarts all its processes
            else:
                server.restart(how)
            follower.wait(lambda n=interruptions: follower.status.interruptions > n)
            follower.wait(lambda: follower.status.phase is FollowPhase.STREAMING)
            work(lab, transactions=2)
            follower.catch_up()
            follower.assert_equal(*TABLES)
