"""DNS lists of clients: what they say of one, and whether it is turned away for that (rblsmtpd(1), RFC 5782)."""

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyqmail.formats.printable import printable
from pyqmail.protocol.dns import Answer
from pyqmail.tcp.remote_name import Kind, SoftFailure, packed, resolver, reversed_labels

TEXT_MAX = 200  # what is kept of a reason
LATER = b"temporary RBL lookup error"
LISTS_S = 20.0  # for all lists of one client together
LIST_S = 8.0  # for one of them, so that one which is down leaves time for others


@dataclass(frozen=True, slots=True)
class Lists:
    """Which lists are asked, and how they are taken; ``bases`` are -r and -a with their bases, in order.

    Behind a base may stand ``=`` and the addresses that count (``means``): ``zen.example=127.0.0.[2..11]``.
    """

    bases: tuple[tuple[bytes, bytes], ...]
    permanent: bool
    fail_closed: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Why a client is turned away, for ever (553) or for now (451)."""

    text: bytes
    permanent: bool

    def reply(self) -> bytes:
        """The line without its end."""
        return (b"553 " if self.permanent else b"451 ") + self.text


def decide(lists: Lists, environ: Mapping[bytes, bytes], note: Callable[[bytes], None]) -> Block | None:
    """Whether the client is blocked; None if the program may have it.

    ``note`` hears of a list that does not answer us. In order: $RBLSMTPD, then each list until one decides.
    """
    given = environ.get(b"RBLSMTPD")
    if given is not None:
        return Block(printable(given.removeprefix(b"-")[:TEXT_MAX]), given.startswith(b"-")) if given else None
    permanent = lists.permanent
    client = reversed_address(environ.get(b"TCPREMOTEIP", b""))
    until = time.monotonic() + LISTS_S
    for letter, wanted in lists.bases:
        base, _, codes = wanted.partition(b"=")
        try:
            listing = look_up(client + b"." + base, environ, codes, until)
        except SoftFailure as failure:
            if isinstance(failure, Refusal):
                note(b"%b does not answer: %b" % (base, failure.text))
            if letter == b"r" and lists.fail_closed:
                return Block(LATER, permanent=False)
            if letter == b"a":
                if not lists.fail_closed:
                    return None
                permanent = False
            continue
        if letter == b"a" and listing.named:
            return None
        if letter == b"r" and listing.text:
            return Block(listing.text, permanent)
    return None


class Refusal(SoftFailure):
    """A list says that it does not answer us, or is no list any more; ``text`` is printable."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text.decode("ascii"))
        self.text = text


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list says of a client: whether an A record names it, and the printable text of its TXT records."""

    named: bool
    text: bytes


def look_up(name: bytes, environ: Mapping[bytes, bytes], codes: bytes, until: float) -> Listing:
    """What the list says of ``name``. Raises SoftFailure where nobody can say in time, Refusal where the list does not
    want to.

    A list that has addresses but none that lists (RFC 5782 section 2.1) speaks of itself: 127.255.255.0/24 is how lists
    turn away whom they do not serve, 127.0.0.1 must never be listed, and addresses outside of 127.0.0.0/8 come from
    whoever owns the domain of a list that has ended. A list that has texts only is taken at its word, unless ``codes``
    says which addresses count. ``until`` is by the monotonic clock.
    """
    left_s = min(LIST_S, until - time.monotonic())
    if left_s <= 0:
        raise SoftFailure("the time for all lists is over")
    try:
        by_address, by_text = resolver(environ, left_s).look_up([(name, Kind.A), (name, Kind.TXT)])
    except OSError as error:
        raise SoftFailure(str(error)) from error
    addresses = by_address.addresses if isinstance(by_address, Answer) else ()
    text = printable(b"".join(by_text.texts)[:TEXT_MAX]) if isinstance(by_text, Answer) else b""
    if addresses and not any(map(means_listed, addresses)):
        raise Refusal(text or ipaddress.ip_address(addresses[0]).compressed.encode("ascii"))
    if not addresses and (codes or not text):
        for found in (by_address, by_text) if codes else (by_text, by_address):
            if isinstance(found, SoftFailure):
                raise found
    if codes and not any(means_listed(each) and means(codes, each) for each in addresses):
        return Listing(False, b"")
    return Listing(bool(addresses), text)


def means(codes: bytes, packed: bytes) -> bool:
    """Whether ``codes`` has the address: four numbers with dots between, in the place of each a list in brackets with
    semicolons and ranges as in Postfix, ``127.0.[0;1].[2..11]``. What is malformed has no address."""
    parts = codes.replace(b"..", b"-").split(b".")
    return len(parts) == len(packed) == 4 and all(map(_has, parts, packed))


def _has(part: bytes, byte: int) -> bool:
    """Whether one number of the four may be ``byte``."""
    for each in part.removeprefix(b"[").removesuffix(b"]").split(b";"):
        low, dash, high = each.partition(b"-")
        if low.isdigit() and (high.isdigit() or not dash) and int(low[:9]) <= byte <= int((high or low)[:9]):
            return True
    return False


def means_listed(packed: bytes) -> bool:
    """Whether the answer ``packed`` of a list means that the client is on it (RFC 5782 section 2.1)."""
    return packed[:1] == b"\x7f" and packed[:3] != b"\x7f\xff\xff" and packed != b"\x7f\0\0\1"


def reversed_address(ip: bytes) -> bytes:
    """The labels to look up for a client; text that is no address is turned round at its dots all the same."""
    try:
        return reversed_labels(packed(ip.decode("ascii")))
    except (OSError, ValueError):
        return b".".join(label for label in reversed(ip.split(b".")) if label)
