"""The processes that the demo starts import nothing from the directory that the demo was started in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dbmazz_core.demo.module_path import child_environment


def test_files_called_like_modules_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = ("select", "socket", "struct", "types", "numpy", "json")
    for module in modules:
        (tmp_path / f"{module}.py").write_text(f"open('imported {module}', 'w'); raise ImportError('mine')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    code = f"import {', '.join(modules)}, dbmazz_core"
    ended = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not list(tmp_path.glob("imported*"))
