"""What tcpserver and qmail-smtpd would say to a client who names the recipient."""

import os
from collections.abc import Mapping

from pyqmail.admin.explain.judges import explain_judges
from pyqmail.admin.explain.verdict import DEFERRED, REFUSED, Verdict, say
from pyqmail.control import Control
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.formats.printable import visible
from pyqmail.incoming.check import Rules
from pyqmail.incoming.checks import CHECKS
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.lists import BadHelo, BadRecipient, BadSender, ValidRecipient
from pyqmail.incoming.lmtp_recipient import LmtpRecipient
from pyqmail.incoming.recipient_check import RecipientCheck
from pyqmail.incoming.recipients_file import ListedRecipient
from pyqmail.policy.relaying import Relaying, size_limit
from pyqmail.tcp.tcprules import decide


def explain_session(home: str, address: bytes, sender: bytes, rules: bytes, ip: bytes, helo: bytes) -> bytes:
    """What tcpserver and qmail-smtpd say; the recipient that goes into the queue. Raises Verdict."""
    variables = explain_rules(rules, ip)
    say("checks", ", ".join(check.name for check in CHECKS))
    control = Control(home)
    relaying = Relaying(control)
    try:
        relay = variables.get(b"RELAYCLIENT")
        client = Client(ip, b"unknown", None, helo=helo or None, relay=relay)
        explain_lists(Rules(home, variables), client, address, sender)
        explain_judges(Rules(home, variables), client, sender, address)
        say("databytes", str(size_limit(control, variables) or "no limit"))
        if relay is not None:
            say(
                "RELAYCLIENT",
                "set: every recipient is accepted" + (f", with {visible(relay)} appended" if relay else ""),
            )
            return address + relay
        if relaying.rcpthosts_missing:
            say("rcpthosts", "missing: only me and locals count")
        if not relaying.accepts(address):
            say("rcpthosts", "does not list the domain, nor does morercpthosts.cdb")
            raise Verdict(REFUSED, "qmail-smtpd refuses the recipient (553)")
        say("rcpthosts", "accepts the domain")
    finally:
        relaying.close()
    explain_recipient(home, control, address, variables)
    return address


def explain_lists(rules: Rules, client: Client, address: bytes, sender: bytes) -> None:
    """What the lists of names, senders and recipients say. Raises Verdict and ControlUnreadable."""
    names, senders, recipients = BadHelo(rules), BadSender(rules), BadRecipient(rules)
    valid, listed, routed = ValidRecipient(rules), ListedRecipient(rules), LmtpRecipient(rules)
    try:
        if names.active and names.sender(client, Letter(0, sender)) is not None:
            say("badhelo", f"lists {visible(client.helo or b'')}")
            raise Verdict(REFUSED, "qmail-smtpd refuses each recipient of a client with this name (553)")
        refusal = senders.sender(client, Letter(0, sender)) if senders.active else None
        if refusal is not None:
            say(
                "badmailfrom",
                f"lists {visible(sender)}" + "".join(f" ({visible(what)})" for _, what in refusal.evidence),
            )
            raise Verdict(REFUSED, "qmail-smtpd refuses each recipient of this sender (553)")
        say("badmailfrom", f"does not list <{visible(sender)}>")
        if recipients.active and recipients.recipient(client, Letter(0, sender), address) is not None:
            say("badrcptto", f"lists {visible(address)}")
            raise Verdict(REFUSED, "qmail-smtpd refuses the recipient (553)")
        if valid.active and valid.recipient(client, Letter(0, sender), address) is not None:
            say("validrcptto", "has lines of its domain, and not the recipient")
            raise Verdict(REFUSED, "qmail-smtpd refuses the recipient (550)")
        if listed.active and listed.recipient(client, Letter(0, sender), address) is not None:
            say("recipients", "does not list the recipient, or its program cannot say")
            raise Verdict(REFUSED, "qmail-smtpd refuses the recipient (550, or 451 for now)")
        if routed.active and client.relay is None and routed.route_of(address) is not None:
            say("lmtp", "qmail-smtpd asks the server of its route")
    finally:
        for each in (names, senders, recipients, valid, rules):
            each.close()
        for note in rules.notes:
            say("alert", visible(note))


def explain_rules(path: bytes, ip: bytes) -> dict[bytes, bytes]:
    """What the rules file of tcpserver says: the variables that it sets. Raises Verdict."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        say("tcp rules", f"{visible(path)} is missing: without -x everybody may connect, with it nobody")
        return {}
    except OSError as error:
        raise Verdict(DEFERRED, f"{visible(path)}: {error.strerror}: tcpserver drops every connection") from error
    try:
        decision = decide(Cdb(fd).get, ip, None, None)
    except (CdbCorrupt, OSError):
        raise Verdict(DEFERRED, f"{visible(path)} is damaged: tcpserver drops every connection") from None
    finally:
        os.close(fd)
    found = "no rule" if decision.key is None else f"rule {visible(decision.key)!r}"
    settings = "".join(f', {visible(name)}="{visible(value)}"' for name, value in decision.variables)
    say("tcp rules", f"{found} of {visible(path)}: {'deny' if decision.deny else 'allow'}{settings}")
    if decision.deny:
        raise Verdict(REFUSED, "tcpserver closes the connection")
    return dict(decision.variables)


def explain_recipient(home: str, control: Control, recipient: bytes, variables: Mapping[bytes, bytes]) -> None:
    """Whether qmail-smtpd believes that the recipient exists. Raises Verdict."""
    check = RecipientCheck(control, home, variables)
    try:
        if not check.exists(recipient):
            say("recipient", "does not exist here")
            raise Verdict(REFUSED, "qmail-smtpd refuses the recipient (550)")
        say("recipient", "is not known to be nobody's")
    finally:
        check.close()
