"""What a bounce says to programs: a part of a multipart/report (RFC 3464), made from the paragraphs of bounce/N.

All of it is ASCII. An address in UTF-8 is written as RFC 6533 section 3 wants it where mail is not SMTPUTF8.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyqmail.address import quote, quote_utf8
from pyqmail.formats.date822 import format_date
from pyqmail.formats.xtext import decode_xtext

PARAGRAPH_MAX = 16384  # bytes of one recipient's paragraph that are looked at; a report has 5000
DIAGNOSTIC_MAX = 900  # bytes of a text in its field; a line has 998 (RFC 5322 section 2.1.1)
UNKNOWN = b"5.0.0"  # other undefined status (RFC 3463)
_SAID = b"Remote host said: "
_SAYER = re.compile(rb"^(?:Connected to )?([0-9a-f.:]{3,45}) [^\n]*\n" + _SAID, re.MULTILINE)
_ENHANCED = re.compile(rb"[245]\d\d[ -]([45]\.\d{1,3}\.\d{1,3})(?!\d)")
_OWN = re.compile(rb"#([45]\.\d{1,3}\.\d{1,3})(?!\d)")
_NOT_PRINTED = re.compile(rb"[^\x20-\x7e]")


def parse_paragraphs(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Each recipient of bounce/N, as its line spells it, and the text that belongs to it.

    A paragraph ends at an empty line; what is none of a recipient's is left out.
    """
    held = b""
    for piece in pieces:
        *paragraphs, held = (held + piece).split(b"\n\n")
        held = _shortened(held)
        yield from filter(None, map(_recipient, paragraphs))
    if found := _recipient(held):
        yield found


def _shortened(held: bytes) -> bytes:
    """The paragraph that has not ended yet: its beginning, and the last byte, which may be half of an empty line."""
    return held if len(held) <= PARAGRAPH_MAX else held[: PARAGRAPH_MAX - 1] + held[-1:]


def _recipient(paragraph: bytes) -> tuple[bytes, bytes] | None:
    line, _, text = paragraph.lstrip(b"\n").partition(b"\n")
    return (line[1:-2], text) if line.startswith(b"<") and line.endswith(b">:") else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a recipient: delivered, relayed or delayed (RFC 3464 section 2.3.3), and with which ``text``.

    ``orcpt`` is the value of ORCPT as it came, empty without one.
    """

    address: bytes
    action: str
    text: bytes
    orcpt: bytes = b""


def format_message_fields(host: bytes, arrival: int, envid: bytes = b"") -> bytes:
    """The fields of the message (RFC 3464 section 2.2). ``arrival``: a Unix time; ``envid``: as it came, in xtext."""
    return b"%bReporting-MTA: dns; %b\nArrival-Date: %b\n" % (
        b"Original-Envelope-Id: " + _printed(decode_xtext(envid)) + b"\n" if envid else b"",
        _printed(host),
        format_date(arrival),
    )


def format_recipient_fields(address: bytes, text: bytes, orcpt: bytes = b"") -> bytes:
    """An empty line, and the fields of a recipient that failed with ``text`` (RFC 3464 section 2.3)."""
    return b"\n%bFinal-Recipient: %b\nAction: failed\nStatus: %b\n%b" % (
        _original(orcpt),
        format_typed_address(address),
        status_of(text),
        _answer(text),
    )


def format_outcome(outcome: Outcome, until: int) -> bytes:
    """The same of one that did not fail; ``until`` is when a delayed one will be given up, a Unix time."""
    delayed = outcome.action == "delayed"
    found = status_of(outcome.text) if delayed else b"2.0.0"
    status = found if found[:1] != b"5" else b"4.0.0"  # it waits, whatever the code says
    fields = b"\n%bFinal-Recipient: %b\nAction: %b\nStatus: %b\n" % (
        _original(outcome.orcpt),
        format_typed_address(outcome.address),
        outcome.action.encode(),
        status,
    )
    if delayed:
        fields += b"%bWill-Retry-Until: %b\n" % (_answer(outcome.text), format_date(until))
    elif outcome.action == "relayed" and _SAID in outcome.text:
        fields += _answer(outcome.text)
    return fields


def _original(orcpt: bytes) -> bytes:
    """The field with the address as the sender spelled it (RFC 3464 section 2.3.1, RFC 6533 section 3)."""
    if not orcpt:
        return b""
    kind, _, address = orcpt.partition(b";")
    plain = decode_xtext(address)
    if kind.lower() == b"utf-8":
        plain = "".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in plain.decode("utf-8", "replace")).encode()
    return b"Original-Recipient: %b; %b\n" % (_printed(kind), _printed(plain))


def format_typed_address(address: bytes) -> bytes:
    """``rfc822; joe@a.example``, or ``utf-8;`` and an address whose other characters are ``\\x{HEX}`` (RFC 6533)."""
    if address.isascii():
        return b"rfc822; " + _printed(quote(address))
    try:
        address.decode()
    except UnicodeDecodeError:
        return b"rfc822; " + _printed(quote(address))
    return b"utf-8; " + "".join(map(_utf8_character, quote_utf8(address).decode())).encode()


def _utf8_character(character: str) -> str:
    plain = "!" <= character <= "~" and character not in "\\+="  # QCHAR of RFC 6533 section 3
    return character if plain else f"\\x{{{ord(character):X}}}"


def status_of(text: bytes) -> bytes:
    """The code of ``text`` (RFC 3463): the other host's, else our own behind ``#``, else 5.0.0."""
    said = text.partition(_SAID)[2]
    found = _ENHANCED.match(said) or _OWN.search(text)
    return found[1] if found else UNKNOWN


def _answer(text: bytes) -> bytes:
    """The fields with the reply of the other host, and its address; or with what this one says, in one line.

    RFC 3461 section 6.3 (h) and (i). The host has no name in ``text``: section 9.3 takes a domain literal for one.
    """
    said, sayer = text.partition(_SAID)[2], _SAYER.search(text)
    words = _printed(b" ".join((said or text).split())[:DIAGNOSTIC_MAX] or b"no text")
    code = b"Diagnostic-Code: %b; %b\n" % (b"smtp" if said else b"x-qmail", words)
    if sayer is None:
        return code
    return b"Remote-MTA: dns; [%b%b]\n%b" % (b"IPv6:" if b":" in sayer[1] else b"", sayer[1], code)


def _printed(text: bytes) -> bytes:
    return _NOT_PRINTED.sub(b"?", text)
