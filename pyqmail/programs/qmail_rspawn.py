"""qmail-rspawn: delivers to other hosts through qmail-remote, one recipient each (qmail-rspawn(8)).

``qmail-rspawn``, as qmailr: commands on descriptor 0, reports on 1. ``$QMAILREMOTE`` names another program to execute.
Two differences from the original: qmail-remote runs in warm workers while PATH finds our own; and a program that cannot
be executed defers the message, whatever the reason, because a local fault never bounces mail.
"""

import os
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of, read_knobs
from pyqmail.formats.report import append_remote, remote_report
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.protocol.spawn import Command
from pyqmail.system.files import open_write, write_all
from pyqmail.system.loop import Loop
from pyqmail.system.process import find_program, plug_standard_descriptors
from pyqmail.warm.runner import Runner
from pyqmail.warm.spawner import Done, Spawner, prepare_signals

TCPTO_SIZE = 1024  # bytes of lock/tcpto


class RemoteChannel:
    """Remote deliveries: run qmail-remote, found by PATH, as the user we are."""

    def __init__(self, loop: Loop, mess: str, environ: Mapping[bytes, bytes], limit: int) -> None:
        self._name = environ.get(b"QMAILREMOTE") or b"qmail-remote"
        self._runner = Runner(
            loop,
            lambda: find_program(self._name, environ.get(b"PATH")),
            # what QMAILREMOTE names is always executed: no module has an empty name
            "" if environ.get(b"QMAILREMOTE") else "pyqmail.programs.qmail_remote",
            environ,
            directory=mess,
            limit=limit,
            setup_exit=111,
            descriptor_exit=111,
            exec_exit=111,
        )

    def start(self, command: Command, message: int, output: int, done: Done) -> None:
        """Run the program for everything after the last @; an empty box is nothing special here."""
        host = command.recipient.rpartition(b"@")[2]
        argv = (self._name, host, command.sender, command.recipient)
        self._runner.run(argv, None, message, output, done)

    def append(self, stored: bytearray, data: bytes) -> None:
        """Keep all output."""
        append_remote(stored, data)

    def report(self, status: int | None, output: bytes) -> bytes:
        """Letter and text from the records that qmail-remote printed."""
        return remote_report(status, output)

    def close(self) -> None:
        """Let the workers end."""
        self._runner.close()


def wipe_tcpto(path: str) -> None:
    """Forget the hosts that timed out. Trouble is harmless: entries expire by themselves."""
    try:
        fd = open_write(path)
    except OSError:
        return
    try:
        write_all(fd, bytes(TCPTO_SIZE))
    except OSError:
        return
    finally:
        os.close(fd)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until descriptor 0 ends; 111 when it cannot start."""
    plug_standard_descriptors()
    home = home_of(environ)
    try:
        os.chdir(home)
        os.chdir("queue/mess")
        accounts = read_accounts(home)
        limit = read_knobs(home).spawn
    except (OSError, AccountMissing, ControlUnreadable):
        return 111
    prepare_signals()
    wipe_tcpto(home + "/queue/lock/tcpto")
    loop = Loop()
    channel = RemoteChannel(loop, os.path.abspath("."), environ, limit)
    Spawner(loop, channel, spawn_limit=limit, message_owner=accounts.uid_queue).run()
    return 0
