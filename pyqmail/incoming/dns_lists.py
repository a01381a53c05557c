"""DNS lists that qmail-smtpd asks about a client at its first recipient: control/dnsbllist (qmail-smtpd(8), RFC 5782).

After AUTH, so that users are never asked about. A line is ``ZONE[=CODES][:TEXT]``, and before it ``-`` refuses for
ever, ``+`` is a list of clients that no other list is asked about, ``=`` only leaves a line in the log.
"""

import os
import time
from dataclasses import dataclass

from pyqmail.formats.logline import safe
from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.protocol.reply import Reply

LATER = Reply(451, b"temporary DNS list lookup error (#4.7.1)")


@dataclass(frozen=True, slots=True)
class Zone:
    """One line: ``kind`` is ``+``, ``=`` or a refusal (``-`` for ever)."""

    name: bytes
    kind: bytes
    codes: bytes
    text: bytes


def parse_zone(line: bytes) -> Zone:
    """A line of dnsbllist. A text that begins with ``-`` refuses for ever, as in rblsmtpd."""
    kind = line[:1] if line[:1] in (b"+", b"-", b"=") else b""
    name, _, text = line[len(kind) :].partition(b":")
    name, _, codes = name.partition(b"=")
    if text.startswith(b"-"):
        kind, text = kind or b"-", text[1:]
    return Zone(name.strip(), kind, codes.strip(), text)


class DnsLists(Check):
    """What the lists say is asked once in a session."""

    name = "dnsbllist"

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._zones = tuple(map(parse_zone, read_zones(rules)))
        self._verdict: Verdict | None = None
        self._asked = False
        self.active = bool(self._zones) and b"DNSBLSKIP" not in rules.environ

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        if client.relay is not None or client.user is not None:
            return None
        if not self._asked:
            self._asked = True
            self._verdict = self._ask(client)
        return self._verdict

    def _ask(self, client: Client) -> Verdict | None:
        from pyqmail.tcp.dns_lists import LISTS_S, Refusal, look_up, reversed_address
        from pyqmail.tcp.remote_name import SoftFailure

        closed = self._fail_closed()
        reversed_ip = reversed_address(client.ip)
        until = time.monotonic() + LISTS_S
        for zone in self._zones:
            try:
                listing = look_up(reversed_ip + b"." + zone.name, self._rules.environ, zone.codes, until)
            except SoftFailure as failure:
                if isinstance(failure, Refusal):
                    self._rules.notes.append(b"dnsbllist: %b does not answer: %b" % (zone.name, safe(failure.text)))
                if closed and zone.kind in (b"", b"-"):
                    return Verdict(LATER)
                continue
            if not listing.named and not listing.text:
                continue
            if zone.kind == b"+":
                return None
            if zone.kind == b"=":
                self._rules.notes.append(b"dnsbllist: %b lists ip=%b" % (zone.name, safe(client.ip[:64])))
                continue
            text = zone.text.replace(b"%IP%", client.ip[:64]) or listing.text or b"listed by " + zone.name
            return Verdict(Reply(553 if zone.kind == b"-" else 451, text[:300]))
        return None

    def _fail_closed(self) -> bool:
        given = self._rules.environ.get(b"DNSBLFAILCLOSED")
        if given is not None:
            return given not in (b"", b"0")
        return self._rules.has("dnsblfailclosed") and self._rules.control.integer("dnsblfailclosed", 0) > 0


def read_zones(rules: Rules) -> tuple[bytes, ...]:
    """The lines of control/dnsbllist, or of the file that $DNSBLLIST names. Raises ControlUnreadable."""
    path = rules.environ.get(b"DNSBLLIST")
    name = "dnsbllist"
    if path:
        name = os.path.relpath(os.path.join(rules.home, os.fsdecode(path)), rules.control.directory)
    elif not rules.has(name):
        return ()
    return rules.control.lines(name) or ()
