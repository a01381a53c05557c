"""A headless Chromium that does what it is told over a pipe (the Chrome DevTools protocol)."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

PATIENCE_S = 120.0


class Browser:
    """One page. What it complains of, and whom it asks, is kept."""

    def __init__(self) -> None:
        program = shutil.which("chromium")
        if program is None:
            pytest.skip("chromium is not installed")
        self._home = tempfile.mkdtemp(prefix="pyqmail-")
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        words = [program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        words += ["--disable-dev-shm-usage", "--ignore-certificate-errors", f"--user-data-dir={self._home}"]
        ends = {3: to_browser, 4: from_browser}  # where it expects them
        high = {fd: fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 40) for fd, end in ends.items()}
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, source, fd) for fd, source in high.items()]
        actions += [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
        environ = {**os.environ, "HOME": self._home}
        self._pid = os.posix_spawn(program, words, environ, file_actions=actions, setsid=True)
        for fd in (*ends.values(), *high.values()):
            os.close(fd)
        self._rest = b""
        self._number = 0
        self._session = ""
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._loaded = False
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.killpg(self._pid, signal.SIGKILL)  # its renderers too: the group is its own
        os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._home, ignore_errors=True)

    def __call__(self, method: str, **params: object) -> dict[str, Any]:
        """What the browser answers to a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "result" in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0], "the browser is silent"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        params = message.get("params", {})
        match message.get("method"):
            case "Log.entryAdded" if params["entry"]["level"] != "verbose":
                self.complaints.append(params["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params))
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])
            case "Page.loadEventFired":
                self._loaded = True
        return message

    def open(self, url: str) -> None:
        """Go there, and wait until it is there."""
        self._loaded = False
        self("Page.navigate", url=url)
        self._wait()

    def _wait(self) -> None:
        while not self._loaded:
            self._next()

    def look(self, expression: str) -> Any:
        """The value of an expression of JavaScript, which only the test runs."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def click(self, selector: str) -> None:
        """Click, and wait for the page that comes of it."""
        self._loaded = False
        assert self.look(f"(e => e ? (e.click(), true) : false)(document.querySelector({json.dumps(selector)}))")
        self._wait()

    def type_into(self, selector: str, words: str) -> None:
        """Fill a field."""
        self.look(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(words)}")

    def be(self, width: int, height: int, scheme: str) -> None:
        """Have a screen of that size, light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self("Emulation.setDeviceMetricsOverride", **size)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    @property
    def text(self) -> str:
        """What is to be read."""
        return str(self.look("document.body.innerText"))

    def picture(self, path: Path) -> None:
        """Save the whole page, what is below the screen too."""
        page = self("Page.getLayoutMetrics")["cssContentSize"]
        whole = {"clip": {**page, "scale": 1}, "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", format="png", **whole)["data"]))
