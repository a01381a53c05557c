"""What is to be known of a message beside its envelope: how it is written, in $QMAILFACTS and on disk (qmail-queue(8)).

Netstrings, one for each fact:

    1 CRC                        version, and the CRC-32 of the sender in hexadecimal
    ret FULL|HDRS                how much of the message a notice gives back (RFC 3461 section 4.3)
    envid XTEXT                  the sender's own name for it, as it came (RFC 3461 section 4.4)
    smtputf8                     its sender asked for SMTPUTF8 (RFC 6531)
    requiretls                   it may leave over verified TLS only (RFC 8689)
    moved ID BIRTH held|free     it comes from another node (qmail-xferd(8)): the transfer, when it was queued first in
                                 seconds since 1970, and whether it is held; believed from qmail-xferd alone
    to NOTIFY ORCPT ADDRESS      a recipient, in the order of the envelope; NOTIFY, ORCPT (RFC 3461 sections 4.1, 4.2)
                                 are ``-`` where the sender said nothing

The recipients behind the last one of whom there is something to say are left out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from pyqmail.formats.netstring import NetstringError, format_netstrings, parse_netstrings

FACTS_MAX = 32768  # bytes of a whole; the environment, a request and a file hold no more
TRANSFER_MAX = 64  # bytes of ``moved``, which is put beside the others when another node takes the message over
ACCEPTED_MAX = FACTS_MAX - TRANSFER_MAX  # bytes of a message that comes from no other node
VERSION = b"1"
NEVER, SUCCESS, FAILURE, DELAY = b"NEVER", b"SUCCESS", b"FAILURE", b"DELAY"
KEYWORDS = (SUCCESS, FAILURE, DELAY)
_TRANSFER = re.compile(rb"([0-9a-f]{32}) (\d{1,12}) (held|free)")


class FactsError(Exception):
    """Bytes that are no facts, or those of another version."""


@dataclass(frozen=True, slots=True)
class RecipientFacts:
    """What the sender wants to hear of one recipient; ``orcpt`` is as it came, empty without one."""

    address: bytes
    notify: frozenset[bytes] = frozenset()  # empty: nothing was said, which means FAILURE
    orcpt: bytes = b""

    def wants(self, keyword: bytes) -> bool:
        """Whether the sender is to be told of ``keyword``: SUCCESS, FAILURE or DELAY."""
        return keyword in (self.notify or (FAILURE,))


@dataclass(frozen=True, slots=True)
class Transfer:
    """How a message came from another node: ``name`` is the same each time that it is sent, 32 hexadecimal digits."""

    name: bytes
    birth: int  # seconds since 1970
    held: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of one message."""

    ret: bytes = b""  # FULL, HDRS, or nothing was said
    envid: bytes = b""
    smtputf8: bool = False
    recipients: tuple[RecipientFacts, ...] = ()
    requiretls: bool = False
    transfer: Transfer | None = None

    @property
    def asks_for_notices(self) -> bool:
        """Whether its sender used the DSN extension (RFC 3461)."""
        return bool(self.ret or self.envid or any(one.notify or one.orcpt for one in self.recipients))


NO_FACTS = Facts()


def format_facts(facts: Facts, sender: bytes) -> bytes:
    """The bytes of ``facts``; none at all where there is nothing to say."""
    told = list(facts.recipients)
    while told and not (told[-1].notify or told[-1].orcpt):
        told.pop()
    words = [b"ret " + facts.ret] if facts.ret else []
    words += [b"envid " + facts.envid] if facts.envid else []
    words += [b"smtputf8"] if facts.smtputf8 else []
    words += [b"requiretls"] if facts.requiretls else []
    if facts.transfer is not None:
        moved = facts.transfer
        words += [b"moved %b %d %b" % (moved.name, moved.birth, b"held" if moved.held else b"free")]
    words += [b"to %b %b %b" % (format_notify(one.notify) or b"-", one.orcpt or b"-", one.address) for one in told]
    return format_netstrings([_head(sender), *words]) if words else b""


def _head(sender: bytes) -> bytes:
    return b"%b %08x" % (VERSION, crc32(sender))


def format_notify(notify: frozenset[bytes]) -> bytes:
    """The value of NOTIFY; empty for nothing."""
    return NEVER if NEVER in notify else b",".join(word for word in KEYWORDS if word in notify)


def parse_notify(value: bytes) -> frozenset[bytes] | None:
    """The keywords of NOTIFY in upper case; None for what is no such value (RFC 3461 section 4.1)."""
    words = value.upper().split(b",")
    known = (NEVER,) if len(words) == 1 and words[0] == NEVER else KEYWORDS
    return frozenset(words) if all(word in known for word in words) else None


def parse_facts(data: bytes) -> Facts:
    """The facts in ``data``, whosever they are. Raises FactsError."""
    head, *words = _words(data)
    if head.partition(b" ")[0] != VERSION:
        raise FactsError
    ret = envid = b""
    smtputf8 = requiretls = False
    transfer = None
    recipients = []
    for word in words:
        key, _, value = word.partition(b" ")
        if key == b"to":
            recipients.append(_parse_recipient(value))
        elif key == b"ret" and value in (b"FULL", b"HDRS"):
            ret = value
        elif key == b"envid":
            envid = value
        elif word == b"smtputf8":
            smtputf8 = True
        elif word == b"requiretls":
            requiretls = True
        elif key == b"moved" and (found := _TRANSFER.fullmatch(value)):
            transfer = Transfer(found[1], int(found[2]), found[3] == b"held")
        else:
            raise FactsError
    return Facts(ret, envid, smtputf8, tuple(recipients), requiretls, transfer)


def _words(data: bytes) -> list[bytes]:
    if len(data) > FACTS_MAX:
        raise FactsError
    try:
        words = parse_netstrings(data)
    except NetstringError:
        raise FactsError from None
    if not words:
        raise FactsError
    return words


def _parse_recipient(text: bytes) -> RecipientFacts:
    notify, orcpt, address = (text.split(b" ", 2) + [b"", b""])[:3]
    wanted = frozenset[bytes]() if notify == b"-" else parse_notify(notify)
    if wanted is None or not orcpt:
        raise FactsError
    return RecipientFacts(address, wanted, b"" if orcpt == b"-" else orcpt)


def belong_to(data: bytes, sender: bytes, recipients: Sequence[bytes]) -> bool:
    """Whether the facts ``data`` are those of this envelope: a program that a filter runs may have inherited others.

    Raises FactsError.
    """
    told = [one.address for one in parse_facts(data).recipients]
    return _words(data)[0] == _head(sender) and list(recipients[: len(told)]) == told
