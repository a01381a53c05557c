"""Who else would have a word on a client and a recipient: limits, greylisting and programs, which are only named here.

To ask them would change what they know: a limit would count, and a newcomer would no longer be one.
"""

from pyqmail.admin.explain.verdict import say
from pyqmail.formats.printable import visible
from pyqmail.incoming.check import Rules
from pyqmail.incoming.client import Client
from pyqmail.incoming.dns_lists import DnsLists
from pyqmail.incoming.greylist import Greylist
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.patience import Patience, waits_for_nobody
from pyqmail.incoming.plugins import AUTH, CONNECTION, DATA, HELO, MAIL, PASS, RCPT, read_plugins
from pyqmail.incoming.recipient_limits import recipients_max, setting
from pyqmail.incoming.relay_limits import line_of
from pyqmail.policy.relay_limits import RelayLimits

ASKED = {
    CONNECTION: "the connection",
    HELO: "HELO",
    AUTH: "AUTH",
    MAIL: "MAIL",
    RCPT: "RCPT",
    PASS: "an accepted RCPT",
    DATA: "DATA",
}


def explain_judges(rules: Rules, client: Client, sender: bytes, address: bytes) -> None:
    """Say who would be asked, and what each goes by. Raises ControlUnreadable."""
    letter = Letter(0, sender)
    _explain_patience(rules, client)
    plugins = read_plugins(rules)
    for section, where in ASKED.items():
        programs = plugins.programs(section) if plugins is not None else ()
        if programs:
            say("smtpplugins", f"{', '.join(map(visible, programs))}: asked at {where}")
    if client.relay is None:
        _explain_stranger(rules, client, letter, address)
    else:
        _explain_limit(rules, client, letter)
    program = rules.environ.get(b"RCPTCHECK")
    if program:
        say("RCPTCHECK", f"{visible(program)} is asked")
    program = rules.environ.get(b"QMAILQUEUE")
    if program:
        say("QMAILQUEUE", f"{visible(program)} gets the message, and decides whether it is queued")


def _explain_patience(rules: Rules, client: Client) -> None:
    patience, most, bad = Patience(rules.environ), recipients_max(rules), setting(rules, b"BRTLIMIT", "brtlimit")
    if patience.delay_s:
        excepted = waits_for_nobody(rules, client)
        say("SMTPD_GREETDELAY", "does not count here" if excepted else f"{patience.delay_s} seconds to the greeting")
    if most:
        say("maxrcpt", f"{most} recipients of a message")
    if bad:
        say("brtlimit", f"{bad} refused recipients end a session")


def _explain_stranger(rules: Rules, client: Client, letter: Letter, address: bytes) -> None:
    if rules.has("dnsbllist") and DnsLists(rules).active:
        say("dnsbllist", "the lists are asked")
    greylist = Greylist(rules)
    if greylist.active:
        excepted = greylist.excepts(client, letter, address)
        say(
            "greylist", "does not count here" if excepted else f"a newcomer comes again after {greylist.wait_s} seconds"
        )


def _explain_limit(rules: Rules, client: Client, letter: Letter) -> None:
    limits = RelayLimits(rules.control.read("relaylimits") or b"")
    if not limits:
        return
    line = line_of(limits, client, letter)
    if line is None:
        say("relaylimits", "no limit" if letter.sender else "bounces do not count")
        return
    told = ", ".join(f"{limit.most} {limit.kind.decode()} in {limit.seconds} s" for limit in line.limits)
    say("relaylimits", f"{visible(line.key)}: {told}; over it {line.reply}")
