"""qmail-log --rehearsal: whom enforcing would have refused."""

import subprocess
from pathlib import Path

BIN = Path(__file__).resolve().parents[2] / "bin"
LOG = b"""qmail-smtpd: accepted ip=192.0.2.1 helo=a from=<a@x> to=<b@y> bytes=1 qp=1 spf=fail rehearsal=spf:x.example
qmail-smtpd: accepted ip=192.0.2.1 helo=a from=<a@x> to=<b@y> bytes=1 qp=2 dmarc=fail rehearsal=dmarc:x.example
qmail-smtpd: accepted ip=192.0.2.1 helo=a from=<a@x> to=<b@y> bytes=1 qp=3 dmarc=fail rehearsal=dmarc:X.example
qmail-smtpd: accepted ip=192.0.2.1 helo=a from=<a@x> to=<b@y> bytes=1 qp=4 dmarc=pass
qmail-smtpd: refused ip=192.0.2.1 helo=a from=<a@x> to=<b@y> reason=550 rehearsal=dmarc:x.example
"""


def test_what_was_accepted_and_would_not_be_is_counted_by_domain() -> None:
    run = subprocess.run([BIN / "qmail-log", "--rehearsal", "-"], input=LOG, capture_output=True, check=True)
    assert run.stdout.decode().splitlines() == [
        "accepted: 4; enforcing would have refused:",
        "         2  dmarc  x.example",
        "         1  spf    x.example",
    ]
