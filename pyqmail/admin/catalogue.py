"""Every program of the family: its module, what an escape exits with, and its owner and mode when installed.

Owners and modes are those of qmail's installer, less the setuid bit of qmail-queue, which needs none here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Program:
    """One executable in bin/."""

    module: str
    crash_exit: int = 111  # temporary at each boundary that reads it
    mode: int = 0o755


def _program(name: str, mode: int = 0o755, crash_exit: int = 111) -> tuple[str, Program]:
    return name, Program("pyqmail.programs." + name.replace("-", "_"), crash_exit, mode)


PROGRAMS: dict[str, Program] = dict(
    [
        _program("qmail-queue", 0o755, 81),
        _program("qmail-queued", 0o711),
        _program("qmail-clean", 0o711),
        _program("qmail-start", 0o700),
        _program("qmail-send", 0o711),
        _program("splogger", 0o711),
        _program("qmail-lspawn", 0o700),
        _program("qmail-rspawn", 0o711),
        _program("qmail-getpw", 0o711, 118),
        _program("qmail-newu", 0o700),
        _program("qmail-pw2u", 0o711),
        _program("qmail-local", 0o711),
        _program("qmail-remote", 0o711),
        _program("qmail-tcpto"),
        _program("qmail-tcpok"),
        _program("qmail-smtpd", 0o755, 1),
        _program("tcpserver"),
        _program("tcprules"),
        _program("tcprulescheck"),
        _program("qmail-inject"),
        _program("sendmail"),
        _program("forward"),
        _program("preline"),
        _program("except_"),
        _program("condredirect"),
        _program("bouncesaying"),
        _program("maildirmake"),
        _program("predate"),
        _program("datemail"),
        _program("mailsubj"),
    ]
)
PROGRAMS["except"] = PROGRAMS.pop("except_")
SETUP = Program("pyqmail.admin.setup")  # bin/qmail-setup: the checkout's own, never installed

PYTHON = "/usr/bin/python3"  # readable by every qmail user; an interpreter below /root is not
