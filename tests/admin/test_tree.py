"""The table of the installed tree against the original's installer; each difference is stated here."""

import pytest

from pyqmail.admin.tree import TCPTO_BYTES, Kind, home_entries, queue_entries

ENTRIES = {entry.path: entry for entry in [*home_entries("/var/qmail", "/lib", "/usr/bin/python3"), *queue_entries(23)]}
PUBLIC = (
    "qmail-inject", "predate", "datemail", "mailsubj", "qmail-showctl", "qmail-qread", "qmail-qstat", "qmail-tcpto",
    "qmail-tcpok", "qmail-pop3d", "qmail-qmqpc", "qmail-qmqpd", "qmail-qmtpd", "qmail-smtpd", "sendmail", "tcp-env",
    "qreceipt", "qbiff", "forward", "preline", "condredirect", "bouncesaying", "except", "maildirmake", "maildir2mbox",
)  # fmt: skip
BOOT = [f"boot/{name}{df}" for name in ("home", "proc", "binm1", "binm2", "binm3") for df in ("", "+df")]
# row, paths, owner, mode. The original's 0711 is 0755 here and its 0700 stays: an interpreter reads what it runs.
ROWS = [
    (1, [""], "root", 0o755),
    (1, ["control", "users", "bin", "boot", "doc", "man"], "root", 0o755),
    (1, [f"man/{form}{number}" for form in ("man", "cat") for number in (1, 5, 7, 8)], "root", 0o755),
    (2, ["alias"], "alias", 0o2755),
    (3, ["queue", "queue/todo", "queue/lock", "queue/mess", "queue/mess/0", "queue/mess/22"], "qmailq", 0o750),
    (4, ["queue/pid", "queue/intd"], "qmailq", 0o700),
    (5, ["queue/bounce"], "qmails", 0o700),
    (6, ["queue/info", "queue/info/22", "queue/local/0", "queue/remote", "queue/remote/7"], "qmails", 0o700),
    (7, ["queue/lock/tcpto"], "qmailr", 0o644),
    (8, ["queue/lock/sendmutex"], "qmails", 0o600),
    (9, ["queue/lock/trigger"], "qmails", 0o622),
    (10, ["bin/qmail-queue"], "root", 0o755),  # qmailq and 4711 there: ours has no setuid bit
    (11, [f"bin/{name}" for name in ("qmail-lspawn", "qmail-start", "qmail-newu", "qmail-newmrh")], "root", 0o700),
    (12, [f"bin/{name}" for name in ("qmail-getpw", "qmail-local", "qmail-remote", "qmail-rspawn", "qmail-clean",
                                     "qmail-send", "splogger", "qmail-pw2u", "qmail-popup")], "root", 0o755),
    (13, [f"bin/{name}" for name in PUBLIC], "root", 0o755),
    (14, BOOT, "root", 0o755),
]  # fmt: skip
KINDS = {"queue/lock/trigger": Kind.FIFO, "queue/lock/sendmutex": Kind.FILE, "queue/lock/tcpto": Kind.FILE}
CASES = [
    pytest.param(path, *row[2:], id=path or "home", marks=pytest.mark.contract(f"control 5.{row[0]}"))
    for row in ROWS
    for path in row[1]
]


@pytest.mark.parametrize(("path", "owner", "mode"), CASES)
def test_owner_mode_and_kind(path: str, owner: str, mode: int) -> None:
    entry = ENTRIES[path]
    file = path.startswith(("bin/", "boot/"))
    assert (entry.owner, oct(entry.mode)) == (owner, oct(mode))
    assert entry.kind is KINDS.get(path, Kind.FILE if file else Kind.DIRECTORY)


@pytest.mark.contract("control 5.7")
def test_tcpto_has_room_for_64_records() -> None:
    assert TCPTO_BYTES == 1024


def test_what_the_original_does_not_install_is_not_installed() -> None:
    names = {path.removeprefix("bin/") for path in ENTRIES if path.startswith("bin/")}
    assert not names & {"config", "config-fast", "qmail-setup", "dnsfq", "qmail-upq", "qsmhook", "elq", "pinq", "qail"}
