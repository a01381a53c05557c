"""qmail-dmarcreport: report to domains what was seen of their mail yesterday (qmail-dmarcreport(8), RFC 9990).

qmail-dmarcreport             send what is due; once a day, by cron
qmail-dmarcreport -n DAY      print the reports about a day instead, with those who would get them
"""

import gzip
import os
import time
from collections.abc import Mapping, Sequence

from pyqmail.admin.dmarcreport.sending import Sending
from pyqmail.admin.rights import drop_rights
from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.intake.resend import complain
from pyqmail.mailauth.aggregate_report import Reporter
from pyqmail.policy.accounts import AccountMissing
from pyqmail.protocol.verification import REPORTS
from pyqmail.system.files import write_all

USAGE = b"qmail-dmarcreport: usage: qmail-dmarcreport [ -n YYYYMMDD ]"


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0, also where reports are off; 111 when something stays due or cannot be read; 100 for wrong arguments."""
    words = list(argv[1:])
    if words and not (len(words) == 2 and words[0] == b"-n" and len(words[1]) == 8 and words[1].isdigit()):
        complain(USAGE)
        return 100
    home = home_of(environ)
    try:
        control = Control(home)
        email, name = control.line("dmarcreports") or b"", control.me() or b""
        if not email:
            return 0
        drop_rights(home)  # what strangers have sent is in the reports
        reporter = Reporter(name.decode("ascii", "replace"), email.decode("ascii", "replace"), "pyqmail")
        sending = Sending(home, environ, reporter, home + REPORTS, _say)
        if words:
            return show(sending, words[1].decode("ascii"))
        sending.run(time.time())
        return 111 if sending.unsent else 0
    except (ControlUnreadable, AccountMissing, OSError) as error:
        _say(str(error))
        return 111


def show(sending: Sending, day: str) -> int:
    """Print the reports of a day. Raises OSError and ControlUnreadable."""
    for report in sending.reports(day):
        write_all(1, b"To: " + b", ".join(report.recipients) + b"\n" + gzip.decompress(report.data))
    return 111 if sending.unsent else 0


def _say(text: str) -> None:
    complain(b"qmail-dmarcreport: " + os.fsencode(text))
