"""`dbmazz follow`: its output, signals and exit codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli.command import TIMEOUT_S, Dbmazz, Outcome, end, wait_until
from tests.support.oracle import assert_equal
from tests.support.postgres_fixtures import SourceDatabase


class Running:
    """A process of `dbmazz follow`, whose lines are read while it runs."""

    def __init__(self, dbmazz: Dbmazz, *arguments: str) -> None:
        self.process = dbmazz.start("follow", *arguments)
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._threads = [
            threading.Thread(target=lambda stream=stream, lines=lines: lines.extend(iter(stream.readline, "")))
            for stream, lines in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout]

    def wait(self, text: str) -> None:
        wait_until(lambda: text in "".join([*self.stdout, *self.stderr]) or self.process.poll() is not None)
        assert text in "".join([*self.stdout, *self.stderr])

    def end(self, number: signal.Signals = signal.SIGTERM) -> Outcome:
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT_S)
        for thread in self._threads:
            thread.join()
        return Outcome(code, "".join(self.stdout), "".join(self.stderr))


@contextmanager
def following(dbmazz: Dbmazz, *arguments: str) -> Iterator[Running]:
    running = Running(dbmazz, *arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def test_json_lines_and_sigterm(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    with following(dbmazz, "--json") as running:
        running.wait('"streaming"')
        shop.execute("UPDATE items SET what = what || 1 WHERE order_id < 4")
        wait_until(lambda: any(event.get("changes") for event in running.events))
        outcome = running.end()
    assert outcome.code == 0, outcome.output
    last = json.loads(outcome.stdout.splitlines()[-1])
    assert (last["event"], last["phase"]) == ("status", "stopped")
    assert last["changes"] > 0
    assert last["tables"]["public.items"]["updates"] == last["changes"]
    assert all(json.loads(line)["event"] in ("status", "message") for line in outcome.stdout.splitlines())
    assert "stopping at the next flush" in outcome.stderr
    assert_equal(shop, dbmazz.directory / dbmazz.variables["SINK_URL"], "public.items")


def test_lines_without_a_terminal_and_ctrl_c(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    with following(dbmazz) as running:
        running.wait("streaming: 0 changes")
        shop.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'dbmazz'")
        running.wait("next attempt in 0.5 s")
        running.wait("waiting")
        wait_until(lambda: "".join(running.stderr).count("streaming: 0 changes") == 2)
        outcome = running.end(signal.SIGINT)
    assert outcome.code == 0, outcome.output
    assert outcome.stdout == ""
    assert "stopped: " in outcome.stderr


def test_second_one_gets_slot_active(dbmazz: Dbmazz) -> None:
    with following(dbmazz, "--json") as running:
        running.wait('"streaming"')
        outcome = dbmazz.run("follow", "--json", code=5)
        assert json.loads(outcome.stdout.splitlines()[-1])["error"] == "SlotActive"
        assert dbmazz.run("capture", "--json", code=5).json["error"] == "SlotActive"


def test_sighup_reads_the_file_again(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    path = dbmazz.directory / "dbmazz.toml"
    tables = dbmazz.variables.pop("TABLES")
    slot = dbmazz.variables.pop("SOURCE_SLOT_NAME")
    path.write_text(f'tables = "public.items"\nsource_slot_name = "{slot}"\n')
    with following(dbmazz, "--config", str(path), "--json") as running:
        running.wait('"streaming"')
        path.write_text("tables = 7\nsomething = 1\n")
        running.process.send_signal(signal.SIGHUP)
        running.wait("the settings stay as they were")
        path.write_text(f'tables = "public.items"\nsource_slot_name = "{slot}_b"\n')
        running.process.send_signal(signal.SIGHUP)
        running.wait("end this process and start it again")
        path.write_text(f'tables = "{tables}"\nsource_slot_name = "{slot}"\n')
        running.process.send_signal(signal.SIGHUP)
        running.wait("the settings were read again")
        wait_until(lambda: "public.orders" in running.events[-1].get("table_states", {}))
        assert running.end().code == 0


def test_live_view_in_a_terminal(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        dbmazz.command("follow"),
        env={**dbmazz.environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        cwd=dbmazz.directory,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                seen.extend(data)
        except OSError:
            return  # the other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_until(lambda: b"(streaming)" in seen and b"public.items" in seen)
        shop.execute("UPDATE items SET what = what || 1 WHERE order_id < 4")
        wait_until(lambda: b"changes/s" in seen and b"s behind" in seen)
        process.send_signal(signal.SIGHUP)  # the terminal is closed
        assert process.wait(TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(ours)
    assert b"\x1b[?25h" in seen  # the cursor is visible again


@pytest.mark.parametrize("arguments", [("--follow-interval-ms", "0"), ("--follow-look-interval-s", "-1")])
def test_bad_settings(dbmazz: Dbmazz, arguments: tuple[str, str]) -> None:
    assert "is not" in dbmazz.run("follow", *arguments, code=2).stderr


def test_wrong_password_ends_it_at_once(dbmazz: Dbmazz) -> None:
    process = dbmazz.start("follow", "--source-url", dbmazz.variables["SOURCE_URL"].replace("@", "x@", 1))
    assert end(process).code == 3
