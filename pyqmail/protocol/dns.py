"""DNS queries and answers as values: what the resolver sends, and what it believes of a reply (RFC 1035, 6891, 7505).

Names are dnspython's. Of a reply only the header, the question and the answer section are read: a strange record in the
rest decides nothing.
"""

import encodings.idna  # noqa: F401
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

import dns.exception
import dns.name

from pyqmail.protocol.host_names import ascii_host
from pyqmail.protocol.packed_address import settle_mapped

LABELS_MAX = 127  # what fits the 255 bytes of a name (RFC 1035 section 2.3.4)
EDNS_PAYLOAD = 1232  # below every usual MTU, so that answers are not lost as fragments
Name = dns.name.Name
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_QUESTION = struct.Struct("!HH")
_OPT = struct.Struct("!BHHIH")  # of the root, no options (RFC 6891 section 6.1.2)
_IN, _OPT_TYPE = 1, 41
_AA, _TC, _RD, _RA, _AD = 0x0400, 0x0200, 0x0100, 0x0080, 0x0020
_DO = 0x8000  # in the time to live of OPT
_NS, _SOA = 2, 6


class Kind(IntEnum):
    """The record types that mail asks for."""

    A = 1
    PTR = 12
    MX = 15
    TXT = 16
    AAAA = 28
    TLSA = 52


class Code(IntEnum):
    """The response codes that mean something of their own; every other one is soft."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4


class BadName(Exception):
    """A host that cannot be asked for: empty, an empty label, or too long."""


class BadAnswer(Exception):
    """A reply whose records run past their ends, or that is no reply to this query."""


@dataclass(frozen=True, slots=True)
class Mx:
    """One MX record; the exchanger without its final dot, empty for the root (null MX)."""

    preference: int
    exchanger: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply: its code, whether it is truncated, how many records it has, and those of the type asked for."""

    code: int
    truncated: bool
    count: int
    mx: tuple[Mx, ...] = ()
    addresses: tuple[bytes, ...] = ()
    names: tuple[bytes, ...] = ()  # of PTR records, as name_text spells them
    texts: tuple[bytes, ...] = ()  # of TXT records, each one's strings joined
    associations: tuple[bytes, ...] = ()  # the data of TLSA records
    owner: bytes = b""  # of the first record of the type asked for: where aliases end
    authentic: bool = False  # the server vouches for the signatures (AD)
    lame: bool = False  # a referral to other servers, from one that neither knows nor asks for us
    ttl_s: int = 0  # how long it may be remembered (RFC 2181 section 8, RFC 2308 section 5)


def parse_host(host: bytes) -> Name:
    """``host`` as an absolute name, no search list; UTF-8 labels as A-labels. Raises BadName."""
    labels = ascii_host(host).removesuffix(b".").split(b".")
    try:
        if not all(labels):
            raise BadName(host)
        return Name([*labels, b""])
    except dns.exception.DNSException as error:
        raise BadName(host) from error


def format_query(name: Name, kind: Kind, *, number: int, edns: bool, dnssec: bool = False) -> bytes:
    """The query for the records of type ``kind``, class IN, recursion desired; ``dnssec`` sets the DO bit of EDNS."""
    header = _HEADER.pack(number, _RD, 1, 0, 0, 1 if edns else 0)
    wire = name.to_wire()
    assert wire is not None  # only with a file to write to
    question = wire + _QUESTION.pack(kind, _IN)
    return header + question + (_OPT.pack(0, _OPT_TYPE, EDNS_PAYLOAD, _DO if dnssec else 0, 0) if edns else b"")


def answers(wire: bytes, query: bytes) -> bool:
    """Whether ``wire`` can be the reply to ``query``: a response with its number and, if any, its question."""
    if len(wire) < 12 or wire[:2] != query[:2] or not wire[2] & 0x80:
        return False
    if wire[4:6] == b"\0\0":
        return wire[3] & 15 != Code.NOERROR or wire[6:8] == b"\0\0"  # FORMERR may come without the question
    try:
        return _question(wire) == _question(query)
    except (BadAnswer, struct.error):
        return False


def _question(wire: bytes) -> tuple[bytes, bytes]:
    labels, end = read_name(wire, 12)
    return b".".join(labels).lower(), wire[end : end + 4]


def truncated(wire: bytes) -> bool:
    """Whether the TC bit is set: the records in ``wire`` are only some of the answer."""
    return bool(_HEADER.unpack_from(wire)[1] & _TC)


def parse_answer(wire: bytes, kind: Kind) -> Answer:
    """The reply in ``wire``. Owner names are not compared: a CNAME chain inside the answer is followed that way.

    Raises BadAnswer.
    """
    try:
        return _parse_answer(wire, kind)
    except struct.error as error:
        raise BadAnswer(str(error)) from error


def _parse_answer(wire: bytes, kind: Kind) -> Answer:
    _, flags, questions, records, authorities, _ = _HEADER.unpack_from(wire)
    at = 12
    for _ in range(questions):
        at = read_name(wire, at)[1] + 4
    mx: list[Mx] = []
    addresses: list[bytes] = []
    names: list[bytes] = []
    texts: list[bytes] = []
    associations: list[bytes] = []
    owner: list[bytes] = []
    ttls: list[int] = []
    for _ in range(records):
        labels, at = read_name(wire, at)
        found, group, ttl, size = _RECORD.unpack_from(wire, at)
        ttls.append(ttl)
        at += _RECORD.size
        if at + size > len(wire):
            raise BadAnswer("record runs past the end")
        if group == _IN and found == kind:
            owner = owner or labels
            if kind is Kind.MX:
                mx.append(_parse_mx(wire, at, size))
            elif kind is Kind.PTR:
                names.append(_parse_ptr(wire, at, size))
            elif kind is Kind.TXT:
                texts.append(_parse_text(wire[at : at + size]))
            elif kind is Kind.TLSA:
                associations.append(wire[at : at + size])
            else:
                addresses.append(_parse_address(wire[at : at + size], 4 if kind is Kind.A else 16))
        at += size
    authority, negative_s = _parse_authority(wire, at) if authorities and not owner else (0, 0)
    ttls += [] if owner else [negative_s]
    return Answer(
        flags & 15,
        bool(flags & _TC),
        records,
        tuple(mx),
        tuple(addresses),
        tuple(names),
        tuple(texts),
        tuple(associations),
        b".".join(owner).lower(),
        bool(flags & _AD),
        authority == _NS and not records and not flags & (_AA | _RA),
        min(0 if ttl >> 31 else ttl for ttl in ttls),
    )


def _parse_authority(wire: bytes, at: int) -> tuple[int, int]:
    """The type of the first record of the authority section at ``at``: name servers of a referral, or the SOA of a
    negative answer; and how many seconds that lets the answer be remembered. What cannot be read is no answer's SOA.
    """
    try:
        at = read_name(wire, at)[1]
        found, _, ttl, size = _RECORD.unpack_from(wire, at)
    except (BadAnswer, struct.error):
        return _NS, 0
    end = at + _RECORD.size + size
    if found != _SOA or size < 4 or end > len(wire):
        return found, 0
    return found, min(ttl, int.from_bytes(wire[end - 4 : end], "big"))


def _parse_mx(wire: bytes, at: int, size: int) -> Mx:
    if size < 3:
        raise BadAnswer("MX record too short")
    labels, end = read_name(wire, at + 2)
    if end > at + size:
        raise BadAnswer("exchanger runs past its record")
    return Mx(int.from_bytes(wire[at : at + 2], "big"), b".".join(labels))


def _parse_ptr(wire: bytes, at: int, size: int) -> bytes:
    labels, end = read_name(wire, at)
    if end > at + size:
        raise BadAnswer("name runs past its record")
    return name_text(labels)


def name_text(labels: list[bytes]) -> bytes:
    r"""A name in lower case, without its final dot; bytes but letters, digits, ``-`` and ``_`` as ``\ooo`` (octal)."""
    plain = b"abcdefghijklmnopqrstuvwxyz0123456789-_"
    return b".".join(
        b"".join(b"%c" % byte if byte in plain else b"\\%03o" % byte for byte in label.lower()) for label in labels
    )


def _parse_text(data: bytes) -> bytes:
    text, at = b"", 0
    while at < len(data):
        piece = data[at + 1 : at + 1 + data[at]]
        if len(piece) < data[at]:
            raise BadAnswer("string runs past its record")
        text += piece
        at += 1 + len(piece)
    return text


def _parse_address(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise BadAnswer("address too short")
    return data[:size]


def read_name(wire: bytes, at: int) -> tuple[list[bytes], int]:
    """The labels of the name at offset ``at``, and the offset behind it (RFC 1035 section 4.1.4).

    A pointer may only point before the place it is reached from, so that no name is without end. Raises BadAnswer.
    """
    labels: list[bytes] = []
    end = -1
    floor = at
    while True:
        if at >= len(wire):
            raise BadAnswer("name runs past the end")
        size = wire[at]
        if size >= 0xC0:
            target = int.from_bytes(wire[at : at + 2], "big") & 0x3FFF
            end = at + 2 if end < 0 else end
            if at + 2 > len(wire) or target >= floor:
                raise BadAnswer("bad pointer")
            at = floor = target
        elif size > 63:
            raise BadAnswer("unknown kind of label")
        elif size == 0:
            return labels, at + 1 if end < 0 else end
        else:
            label = wire[at + 1 : at + 1 + size]
            if len(label) < size or len(labels) >= LABELS_MAX:
                raise BadAnswer("name too long")
            labels.append(label)
            at += 1 + size


def parse_literal(text: bytes) -> bytes | None:
    """The packed address that ``text`` spells, with or without brackets; None for a name.

    IPv4 is exactly four numbers, each taken modulo 256, as in the original; a trailing dot makes it a name.
    IPv6 is ``[2001:db8::1]``, ``[IPv6:2001:db8::1]`` (RFC 5321) or bare.
    """
    if text[:1] == b"[":
        if text[-1:] != b"]":
            return None
        text = text[1:-1]
    parts = text.split(b".")
    if len(parts) == 4 and all(part.isdigit() for part in parts):
        return bytes(int(part[-18:]) & 255 for part in parts)
    if b":" not in text:
        return None
    if text[:5].lower() == b"ipv6:":
        text = text[5:]
    try:
        return settle_mapped(socket.inet_pton(socket.AF_INET6, text.decode("ascii")))
    except (OSError, ValueError):
        return None


def format_address(packed: bytes) -> str:
    """The usual spelling of a packed IPv4 or IPv6 address."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
