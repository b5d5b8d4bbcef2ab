"""`dbmazz demo --headless`, as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dbmazz_core.cli import main
from tests.demo.processes import alive, running_demo, until


def test_ends_by_itself_and_is_equal(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "dbmazz_core.cli",
        "demo",
        "--headless",
        "--seconds",
        "6",
        "--rate",
        "60",
        "--json",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["equal"]
    assert report["windows"] >= 2
    assert report["transactions"] > 50
    for table in report["tables"].values():
        assert table["equal"]
        assert table["source_rows"] == table["destination_rows"]
        assert min(table["snapshot_rows"], table["inserts"], table["updates"], table["deletes"]) > 0
    assert not list(tmp_path.iterdir())  # nothing is left where it was called


def test_interrupted_leaves_nothing(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--headless", "--seconds", "60") as demo:
        demo.wait_for("window 1:")
        assert demo.ends(signal.SIGINT, within=10) == 130
        assert "were not compared" in demo.text()


def test_kill_9_leaves_no_process(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--headless", "--seconds", "60") as demo:
        demo.wait_for("window 1:")
        processes = demo.processes()
        demo.process.kill()
        until(lambda: not alive(processes), 15, lambda: str(alive(processes)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json"], "--json requires --headless"),
        (["--headless", "--port", "3000"], "--headless does not start"),
        (["--headless", "--seconds", "0"], "--seconds"),
        (["--rate", "0"], "--rate"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *arguments]) == 2
    streams = capsys.readouterr()
    assert message in streams.err + streams.out


def test_kept_directory_must_be_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.duckdb").touch()
    assert main(["demo", "--headless", "--keep", str(tmp_path)]) == 2
    assert "is not an empty directory" in capsys.readouterr().err


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(["demo"]) == 2
    assert "pip install 'dbmazz[demo]'" in capsys.readouterr().err
