"""control/limitalert: a program of the admin's that hears when somebody is over a limit (qmail-stated(8)).

It runs as qmail-stated's user, in / and with nothing on descriptor 0, and finds LIMITKEY, LIMITKIND, LIMITMOST and
LIMITSECONDS in its environment. It is told once in a window of each limit.
"""

import os
import signal
import time
from collections.abc import Callable

from pyqmail.control import Control, ControlUnreadable
from pyqmail.state.windows import Over
from pyqmail.system.loop import Loop

RUNNING_MAX = 4  # programs at once; what they would have heard meanwhile is in the log
PROGRAM_S = 60.0  # from the start of one until it is killed, with its group
SILENT_S = 60  # at least, after one alert
KNOWN_MAX = 10_000  # alerts that are remembered
PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Alerts:
    """Who has been told of what. ``say`` writes a line of the log."""

    def __init__(self, loop: Loop, home: str, say: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._control = Control(home)
        self._say = say
        self._silent: dict[tuple[bytes, bytes, int], float] = {}  # until when
        self._running = 0

    def tell(self, key: bytes, over: Over) -> None:
        """``key`` is over a limit. Never raises."""
        rule, now = over.rule, time.monotonic()
        name = key, rule.kind, rule.seconds
        if self._silent.get(name, 0.0) > now:
            return
        self._silent.pop(name, None)
        if len(self._silent) >= KNOWN_MAX:
            del self._silent[next(iter(self._silent))]
        self._silent[name] = now + max(SILENT_S, rule.seconds)
        self._say(b"over limit: %b %b %d/%d" % (key, rule.kind, rule.most, rule.seconds))
        try:
            self._start(key, over)
        except (OSError, ValueError, ControlUnreadable) as error:
            self._say(b"warning: unable to run control/limitalert: " + str(error).encode())

    def _start(self, key: bytes, over: Over) -> None:
        program = self._control.line("limitalert")
        if not program:
            return
        if self._running >= RUNNING_MAX:
            raise OSError(f"{RUNNING_MAX} run already")
        environ = {
            b"PATH": PATH,
            b"LIMITKEY": key,
            b"LIMITKIND": over.rule.kind,
            b"LIMITMOST": b"%d" % over.rule.most,
            b"LIMITSECONDS": b"%d" % over.rule.seconds,
        }
        actions = ((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1))
        signals = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP]
        pid = os.posix_spawn(program, [program], environ, file_actions=actions, setpgroup=0, setsigdef=signals)
        try:
            watch = os.pidfd_open(pid)
        except OSError:
            kill_group(pid)
            os.waitpid(pid, 0)
            raise
        self._running += 1
        timer = self._loop.call_later(PROGRAM_S, lambda: kill_group(pid))

        def ended() -> None:
            timer.cancel()
            self._loop.remove_reader(watch)
            os.close(watch)
            os.waitpid(pid, 0)
            self._running -= 1

        self._loop.add_reader(watch, ended)


def kill_group(pid: int) -> None:
    """Kill a program of ours and what it has started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
