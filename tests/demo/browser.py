"""A real browser, driven over chromedriver's HTTP protocol (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
#: What a window that nobody sees is higher than its page, in pixels.
_FRAME = 143
_TIMEOUT_S = 60


class Browser:
    """One window."""

    def __init__(self, session_url: str) -> None:
        self._url = session_url

    def open(self, url: str) -> None:
        """Go to a page and wait for its load event; what it then fetches takes longer."""
        _call(self._url + "/url", {"url": url})

    def run(self, script: str) -> Any:
        """Run JavaScript; `return` gives its value."""
        return _call(self._url + "/execute/sync", {"script": script, "args": []})

    def text(self) -> str:
        """What a reader of the page reads."""
        return str(self.run("return document.body.innerText"))

    def wait_for(self, *texts: str, seconds: float = 30) -> None:
        """Wait until all the texts are on the page."""
        deadline = time.monotonic() + seconds
        while missing := [text for text in texts if text not in self.text()]:
            assert time.monotonic() < deadline, f"not on the page: {missing}; it reads:\n{self.text()[:3000]}"
            time.sleep(0.25)

    def wait_until_gone(self, text: str, *, seconds: float = 30) -> None:
        """Wait until a text is no longer on the page."""
        deadline = time.monotonic() + seconds
        while text in self.text():
            assert time.monotonic() < deadline, f"still on the page: {text}"
            time.sleep(0.25)

    def screenshot(self, path: Path) -> None:
        """Save what the window shows as PNG."""
        path.write_bytes(base64.b64decode(_call(self._url + "/screenshot")))


@contextmanager
def browser(profile: Path, *, width: int = 1600, height: int = 900) -> Iterator[Browser]:
    """Start Chromium with an empty profile; skips the test where there is none."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("needs Chromium and chromedriver: apt-get install chromium chromium-driver")
    flags = [*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height + _FRAME}"]
    process = subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        url = f"http://127.0.0.1:{_port(process)}/session"
        options = {"binary": chromium, "args": flags}
        session = _call(url, {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        try:
            yield Browser(f"{url}/{session['sessionId']}")
        finally:
            _call(f"{url}/{session['sessionId']}", method="DELETE")
    finally:
        # With the browser, all one group. Not asked kindly: chromedriver may wait for it for minutes.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def _port(process: subprocess.Popen[str]) -> int:
    """chromedriver chooses a free one and says which."""
    assert process.stdout is not None
    for line in process.stdout:
        if "started successfully on port" in line:
            return int(line.rsplit(" ", 1)[1].strip().rstrip("."))
    raise AssertionError(f"chromedriver did not start: exit code {process.wait(10)}")


def _call(url: str, body: object = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=_TIMEOUT_S) as response:
            return json.load(response)["value"]
    except HTTPError as error:
        raise AssertionError(f"{url}: {error.read().decode()[:1000]}") from error
