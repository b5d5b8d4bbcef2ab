"""EDGE_CASES.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_case_has_its_tests() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", (HERE / "EDGE_CASES.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 41))
    defined = set(re.findall(r"^def (test_\w+)", "".join(f.read_text() for f in HERE.rglob("test_*.py")), re.MULTILINE))
    for number, cell in rows:
        named = set(re.findall(r"`(test_\w+)`", cell))
        assert named, f"case {number}"
        assert named <= defined, f"case {number}: {named - defined}"
