"""What qmail-inject, Postfix and Exim make of a field that is not as it should be: recipients, and what From becomes.

Each program is given ``To: FIELD`` and ``From: FIELD`` and asked to take the recipients from the header. What it queued
is read from its queue; nothing is delivered. ``refused`` where it queued nothing.

    python -m tests.programs.odd_fields     write the table tests/programs/inject/odd-fields.tsv anew
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.receivers import PEERS
from tests.programs.test_inject_tables import QUEUE, VARIABLES
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).parent / "inject" / "odd-fields.tsv"
REFUSED = ("refused", "")
Outcome = tuple[str, str]  # recipients in the order of the field; From as it was queued, or = if it was left alone
MAIN_CF = """\
compatibility_level = 3.6
queue_directory = BASE/spool
data_directory = BASE/data
myhostname = mx.example.org
myorigin = $myhostname
mydestination =
maillog_file =
syslog_name = pyqmail-peer
alias_maps =
in_flow_delay = 0
"""
MASTER_CF = """\
pickup  unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
rewrite unix - - n - - trivial-rewrite
"""
EXIM_CONF = """\
primary_hostname = mx.example.org
spool_directory = BASE/spool
log_file_path = BASE/log/%slog
keep_environment =
disable_ipv6 = true
queue_only = true
begin routers
begin transports
"""


def unescape(text: str) -> bytes:
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def escape(text: bytes) -> str:
    return text.decode("latin-1").encode("unicode_escape").decode()


def rows() -> list[list[str]]:
    """The table: the field, and for each of us, Postfix and Exim the recipients and what From becomes."""
    lines = TABLE.read_text().splitlines()
    return [(line + "\t" * 6).split("\t")[:7] for line in lines if not line.startswith("# ")]


def outcome(field: bytes, recipients: list[bytes], author: bytes) -> Outcome:
    return " ".join(map(escape, recipients)) or "none", "=" if author == field else escape(author)


def message(field: bytes) -> bytes:
    return b"To: " + field + b"\nFrom: " + field + b"\nSubject: x\n\nb\n"


def ours(fields: list[bytes]) -> list[Outcome]:
    """What qmail-inject makes of each field."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "queue-program").write_text(QUEUE)
        (base / "queue-program").chmod(0o755)
        environ = {b"PATH": b"/usr/bin:/bin", **VARIABLES, b"OUT": bytes(base), b"QMAIL_HOME": bytes(base)}
        environ[b"QMAILQUEUE"] = bytes(base / "queue-program")
        for field in fields:
            command = [sys.executable, "-ISXutf8", str(ROOT / "bin" / "qmail-inject"), "-hfs@x.example"]
            done = subprocess.run(command, input=message(field), env=environ, capture_output=True, check=False)
            if done.returncode:
                found.append(REFUSED)
                continue
            recipients = (base / "envelope").read_bytes().split(b"\0T")[1:]
            queued = re.search(rb"^From: (.*(?:\n[ \t].*)*)", (base / "queued").read_bytes(), re.M)
            assert queued is not None
            found.append(outcome(field, [one.rstrip(b"\0") for one in reversed(recipients)], queued[1]))
    return found


def postfix(fields: list[bytes]) -> list[Outcome]:
    """What the sendmail, pickup and cleanup of Postfix make of each field."""
    base = Path(tempfile.mkdtemp())
    try:
        for name in ("etc", "spool", "data"):
            (base / name).mkdir()
        base.chmod(0o755)
        shutil.chown(base / "data", "postfix")
        (base / "etc" / "main.cf").write_text(MAIN_CF.replace("BASE", str(base)))
        (base / "etc" / "master.cf").write_text(MASTER_CF)
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        control = ["postfix", "-c", str(base / "etc")]
        subprocess.run([*control, "start"], env=environ, check=True, capture_output=True, timeout=60)
        try:
            for number, field in enumerate(fields):
                command = ["/usr/sbin/sendmail", "-C", str(base / "etc"), "-f", f"n{number}@x.example", "-t"]
                subprocess.run(command, input=message(field), env=environ, capture_output=True, timeout=60, check=False)
            wait_for(lambda: not os.listdir(base / "spool" / "maildrop"), "pickup", 120)
        finally:
            subprocess.run([*control, "stop"], env=environ, check=True, capture_output=True, timeout=60)
        return _of_postfix(base, fields)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _of_postfix(base: Path, fields: list[bytes]) -> list[Outcome]:
    found = [REFUSED] * len(fields)
    for path in (base / "spool" / "incoming").iterdir():
        command = ["postcat", "-c", str(base / "etc"), str(path)]
        text = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
        sender = re.search(rb"^sender: n(\d+)@", text, re.M)
        author = re.search(rb"^From: (.*(?:\n[ \t].*)*)", text, re.M)
        recipients = re.findall(rb"^recipient: (.*)$", text, re.M)
        if sender is not None and author is not None and recipients:
            number = int(sender[1])
            found[number] = outcome(fields[number], recipients, author[1])
    return found


def exim(fields: list[bytes]) -> list[Outcome]:
    """What Exim makes of each field."""
    base = Path(tempfile.mkdtemp())
    try:
        base.chmod(0o755)
        for name in ("spool", "log"):
            (base / name).mkdir()
            os.chown(base / name, 20990, 20990)
        for name, line in (("passwd", "20990:20990::/:/bin/false"), ("group", "20990:")):
            others = [one for one in Path("/etc", name).read_text().splitlines() if not one.startswith("Debian-exim:")]
            (base / name).write_text("\n".join([f"Debian-exim:x:{line}", *others]) + "\n")
        (base / "exim.conf").write_text(EXIM_CONF.replace("BASE", str(base)))
        for number, field in enumerate(fields):
            (base / f"m{number}").write_bytes(message(field))
        script = (
            f"mount --bind {base}/passwd /etc/passwd\nmount --bind {base}/group /etc/group\ncd {base}\n"
            f"for i in $(seq 0 {len(fields) - 1}); do\n"
            f"{PEERS}/usr/sbin/exim4 -C {base}/exim.conf -odq -f n$i@x.example -t < m$i\ndone\nexit 0\n"
        )
        subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, timeout=300, check=True)
        return _of_exim(base, fields)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _of_exim(base: Path, fields: list[bytes]) -> list[Outcome]:
    found = [REFUSED] * len(fields)
    for path in (base / "spool" / "input").rglob("*-H"):
        head, _, header = path.read_bytes().partition(b"\n\n")
        sender = re.search(rb"^<n(\d+)@", head, re.M)
        author = re.search(rb"^\d\d\d[F ] From: (.*(?:\n[ \t].*)*)", header, re.M)
        count = re.search(rb"^(\d+)\n((?:[^-\n].*\n?)+)\Z", head, re.M)
        if sender is not None and author is not None and count is not None:
            number = int(sender[1])
            found[number] = outcome(fields[number], count[2].splitlines()[: int(count[1])], author[1])
    return found


def main() -> None:
    """Write the table for the fields that it has."""
    names = [row[0] for row in rows()]
    fields = [unescape(name) for name in names]
    lines = ["# field\tqmail-inject: recipients\tFrom\tPostfix: recipients\tFrom\tExim: recipients\tFrom"]
    for name, *three in zip(names, ours(fields), postfix(fields), exim(fields), strict=True):
        lines.append("\t".join([name, *(part for one in three for part in one)]))
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
