"""qmail-send: the daemon that decides what is delivered, when, and what becomes of it (qmail-send(8)).

    fd 0  log, written            fd 5  requests to qmail-clean, written
    fd 1  commands to lspawn      fd 6  its answers
    fd 2  reports from lspawn
    fd 3  commands to rspawn
    fd 4  reports from rspawn

Everything is read from and written to the queue; what is in memory is only when to look again.  One selector loop
calls back for descriptors and signals; between its turns each part takes a bounded step.  Syncs wait in one
thread; nothing forks once it runs.
"""

import fcntl
import os
import signal
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.formats.logline import safe_words
from pyqmail.log.bugs import describe_bug
from pyqmail.log.events import Alert, Warn
from pyqmail.log.sinks import LineSink
from pyqmail.send.controls import Controls, read_controls
from pyqmail.send.daemon import Daemon
from pyqmail.spool.layout import Layout, read_layout
from pyqmail.system import files
from pyqmail.system.loop import Loop
from pyqmail.system.process import set_title
from pyqmail.system.readiness import tell_ready

STARTED = 0
FATAL = 111


class CannotStart(Exception):
    """Start-up failed; the text is the rest of the log line."""


def _start(environ: Mapping[bytes, bytes]) -> tuple[Layout, Controls, list[int]]:
    """The steps before the loop. Raises CannotStart."""
    home = home_of(environ)
    try:
        os.chdir(home)
    except OSError:
        raise CannotStart("unable to switch to home directory") from None
    try:
        controls = read_controls(home)
        layout = read_layout(home)
    except ControlUnreadable:
        raise CannotStart("unable to read controls") from None
    try:
        os.chdir(layout.queue)
    except OSError:
        raise CannotStart("unable to switch to queue directory") from None
    os.umask(0o077)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        mutex = files.open_write(layout.sendmutex)  # stays open for life: it is the lock
    except OSError:
        raise CannotStart("unable to open mutex") from None
    os.set_inheritable(mutex, True)
    try:
        fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise CannotStart("qmail-send is already running") from None
    return layout, controls, [_spawner_limit(fd) for fd in (2, 4)]


def _spawner_limit(fd: int) -> int:
    try:
        byte = os.read(fd, 1)
    except OSError:
        byte = b""
    if not byte:
        raise CannotStart("hath the daemon spawn no fire?")
    return byte[0]


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Run qmail-send on descriptors 0 to 6; 0 after SIGTERM, 111 if it cannot start."""
    log = LineSink(0)
    try:
        return _serve(log, environ)
    except CannotStart as trouble:
        log(Alert(b"cannot start: " + str(trouble).encode()))
        return FATAL
    except BaseException as error:
        log(Alert(safe_words(describe_bug(error))))
        raise
    finally:
        log.flush()


def _serve(log: LineSink, environ: Mapping[bytes, bytes]) -> int:
    """Start and run. Raises CannotStart."""
    layout, controls, limits = _start(environ)
    set_title("qmail-send")
    tell_ready(environ)
    log.use(controls.log_format, "qmail-send")
    for fault in controls.faults:
        log(Warn(safe_words(fault) + b"; it is ignored"))
    loop = Loop()
    daemon = Daemon(loop, layout, controls, environ, log)
    log.gather(loop)
    daemon.run(limits)
    return STARTED
