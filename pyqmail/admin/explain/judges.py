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
from pyqmail.incoming.plugins import RCPT, read_plugins
from pyqmail.incoming.relay_limits import line_of
from pyqmail.policy.relay_limits import RelayLimits


def explain_judges(rules: Rules, client: Client, sender: bytes, address: bytes) -> None:
    """Say who would be asked, and what each goes by. Raises ControlUnreadable."""
    letter = Letter(0, sender)
    plugins = read_plugins(rules)
    if plugins is not None:
        programs = plugins.programs(RCPT)
        say(
            "smtpplugins",
            ", ".join(map(visible, programs)) + ": asked at RCPT" if programs else "none is asked at RCPT",
        )
    if client.relay is None:
        _explain_stranger(rules, client, letter, address)
    else:
        _explain_limit(rules, client, letter)
    program = rules.environ.get(b"RCPTCHECK")
    if program:
        say("RCPTCHECK", f"{visible(program)} is asked")


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
