"""Our domains as others see them in DNS, for the status page: what qmail-showctl --check dns says, once an hour.

Which domains, keys and certificates are ours is read as root. So the watcher stays root, and has no ear: nobody asks it
anything, and it reads nothing. For each look it forks a child, which becomes qmail-verifyd's user before it asks DNS
(admin/dnscheck), and which writes one line of JSON, read by qmail-metrics as what a stranger may have written.
"""

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pyqmail.control import ControlUnreadable
from pyqmail.dependencies import missing_module
from pyqmail.look.apart import Lost
from pyqmail.policy.accounts import AccountMissing
from pyqmail.system.files import write_all
from pyqmail.system.process import close_all_but, fork_child, reset_signals, set_title

TITLE = "qmail-metrics: DNS"
EVERY_S = 3600.0
LOOK_S = 300.0  # after that no other question of a look is begun
ALARM_S = 360  # and after that it is ended
FINDINGS_MAX = 2000
LINE_MAX = 4 << 20  # bytes
TIME_MAX = 1e11  # what a page can show


@dataclass(frozen=True, slots=True)
class DnsState:
    """A look that began ``at`` and took ``took_s``, and what it found: about what, which check, whether all is well.

    ``whole``: it came to its end in time. ``error``: why nothing could be looked at. ``at`` is 0 before the first look.
    """

    at: float = 0.0
    took_s: float = 0.0
    whole: bool = True
    error: str = ""
    findings: tuple[tuple[str, str, bool, str], ...] = ()


def parse_state(line: bytes) -> DnsState:
    """What ``look`` wrote. Raises ValueError."""
    try:
        match json.loads(line):
            case [int() | float() as at, int() | float() as took_s, bool(whole), str(error), list(found)] if (
                0 <= at < TIME_MAX and 0 <= took_s < TIME_MAX  # no number at all is neither
            ):
                return DnsState(float(at), float(took_s), whole, error, tuple(map(_parse_finding, found)))
    except RecursionError:
        pass
    raise ValueError("no findings")


def _parse_finding(value: object) -> tuple[str, str, bool, str]:
    match value:
        case [str(about), str(check), bool(good), str(text)]:
            return about, check, good, text
    raise ValueError("no finding")


class DnsWatch:
    """qmail-metrics' end: the last look. It forks the watcher; raises OSError."""

    def __init__(self, home: str) -> None:
        self._reader, writer = os.pipe()
        fork_child(lambda: _prepare(writer), lambda: _keep_looking(home, writer))
        os.close(writer)
        self.value = DnsState()

    def watch(self, lost: Callable[[Lost], None]) -> None:
        """Read in a thread; when the watcher has ended ``lost`` is called in it."""
        threading.Thread(target=self._read, args=(lost,), daemon=True).start()

    def _read(self, lost: Callable[[Lost], None]) -> None:
        with open(self._reader, "rb") as file:
            while line := file.readline(LINE_MAX):
                try:
                    self.value = parse_state(line)
                except ValueError:
                    continue  # of a look that was ended, or of one that something on the way has taken over
        lost(Lost(f"{TITLE}: it has ended"))


def _prepare(writer: int) -> None:
    reset_signals()
    close_all_but((0, 1, 2, writer))
    set_title(TITLE)


def _keep_looking(home: str, writer: int) -> int:
    """Look again and again, until nobody reads any more."""
    while True:
        child = fork_child(lambda: None, lambda: _look(home, writer))
        done = os.pidfd_open(child)
        if _gone(writer, None, done):
            os.kill(child, signal.SIGKILL)
        os.close(done)
        os.waitpid(child, 0)
        if _gone(writer, EVERY_S):
            return 0


def _gone(writer: int, wait_s: float | None, *until: int) -> bool:
    """Whether the other end of ``writer`` is closed; waits for that, and for one of ``until``."""
    poll = select.poll()
    poll.register(writer, 0)
    for fd in until:
        poll.register(fd, select.POLLIN)
    return any(fd == writer for fd, _ in poll.poll(None if wait_s is None else wait_s * 1000))


def _look(home: str, writer: int) -> int:
    signal.alarm(ALARM_S)
    write_all(writer, json.dumps(look(home)).encode() + b"\n")
    return 0


def look(home: str) -> list[object]:
    """Look once; the fields of a DnsState. This process is root no longer then."""
    at, began = time.time(), time.monotonic()
    found: list[tuple[str, str, bool, str]] = []
    whole, error = True, ""
    try:
        from pyqmail.admin.dnscheck.look import look as look_at_dns

        for each in look_at_dns(home):
            if time.monotonic() > began + LOOK_S or len(found) >= FINDINGS_MAX:
                whole = False
                break
            found.append((each.about, each.check, each.good, each.text))
    except ModuleNotFoundError as missing:
        remedy = missing_module(missing.name or "")
        error = f"{missing}: run {remedy}" if remedy else str(missing)
    except (ControlUnreadable, AccountMissing, OSError) as trouble:
        error = str(trouble)
    return [at, time.monotonic() - began, whole, error, found]
