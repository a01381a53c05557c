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
        _program("qmail-lmtp"),
        _program("qmail-tcpto"),
        _program("qmail-qread"),
        _program("qmail-qstat"),
        _program("qmail-q"),
        _program("qmail-popup", 0o711, 1),
        _program("qmail-pop3d", 0o755, 0),
        _program("checkpassword", 0o700),
        _program("qmail-vuser", 0o700),
        _program("qmail-accounts", 0o700),
        _program("qmail-accountsd", 0o700),
        _program("qmail-cert", 0o700),
        _program("qmail-dkimkey", 0o700),
        _program("qmail-tcpok"),
        _program("qmail-smtpd", 0o755, 1),
        _program("qmail-rcptd", 0o711),
        _program("qmail-authd", 0o700),
        _program("qmail-verifyd", 0o711),
        _program("qmail-stated", 0o711),
        _program("qmail-shadowd", 0o711),
        _program("qmail-limits", 0o700),
        _program("qmail-qmtpd"),
        _program("qmail-qmqpd"),
        _program("qmail-xferd"),
        _program("qmail-qmqpc", 0o755, 81),
        _program("qmail-rspamd", 0o755, 81),
        _program("qmail-qfilter", 0o755, 81),
        _program("spawn-filter"),
        _program("qmail-dkim", 0o755, 81),
        _program("qmail-listfrom"),
        _program("qmail-dmarcreport"),
        _program("tcpserver"),
        _program("tcprules"),
        _program("tcprulescheck"),
        _program("rblsmtpd"),
        _program("recordio"),
        _program("fixcrio"),
        _program("tcp-env"),
        _program("qmail-inject"),
        _program("sendmail"),
        _program("forward"),
        _program("srsfilter"),
        _program("preline"),
        _program("except_"),
        _program("condredirect"),
        _program("bouncesaying"),
        _program("maildirmake"),
        _program("predate"),
        _program("datemail"),
        _program("mailsubj"),
        _program("fastforward"),
        _program("newaliases"),
        _program("newinclude"),
        _program("setforward"),
        _program("setmaillist"),
        _program("printforward"),
        _program("printmaillist"),
        _program("dot-forward"),
        _program("qreceipt"),
        _program("qbiff", crash_exit=0),
        _program("maildir2mbox"),
        _program("qmail-showctl"),
        _program("qmail-newmrh", 0o700),
        _program("qmail-newlist", 0o700),
        _program("qmailctl"),
        _program("qmail-explain"),
        _program("qmail-log"),
        _program("qmail-report"),
        _program("qmail-top"),
        _program("qmail-metrics", 0o711),
    ]
)
PROGRAMS["except"] = PROGRAMS.pop("except_")
PROGRAMS["mailq"] = PROGRAMS["sendmail"]  # it looks at the name it is called by
# The checkout's own, never installed: they make the tree and its first control files.
CHECKOUT: dict[str, Program] = {
    "qmail-setup": Program("pyqmail.admin.setup", 1),
    "config": Program("pyqmail.programs.config"),
    "config-fast": Program("pyqmail.programs.config_fast"),
}

PYTHON = "/usr/bin/python3"  # readable by every qmail user; an interpreter below /root is not
# Where an interpreter is looked for, in this order: the system's, then newer ones beside an old one.
PYTHON_PLACES = (
    PYTHON,
    *(f"{place}/python3.{minor}" for place in ("/usr/bin", "/usr/local/bin") for minor in (14, 13, 12, 11)),
)
