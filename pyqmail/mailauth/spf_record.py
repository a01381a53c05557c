"""SPF records as values: mechanisms and modifiers in their order (RFC 7208 sections 4.6, 5, 6 and 12)."""

import re
import socket
from dataclasses import dataclass
from functools import lru_cache

RECORD_MAX = 8192  # bytes; a record that is longer is not understood

_MECHANISM = re.compile(rb"([+\-?~]?)([a-z0-9]+)(?:(:[^\s]*)|(/[0-9/]+))?", re.IGNORECASE)
_MODIFIER = re.compile(rb"([a-z][a-z0-9\-_.]*)=(.*)", re.IGNORECASE | re.DOTALL)
_CIDR = re.compile(rb"(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?\Z")
_DUAL = re.compile(rb"(/[0-9]+)?(//[0-9]+)?\Z")
_MACRO = re.compile(rb"%(?:\{([a-z])([0-9]*)(r?)([.\-+,/_=]*)\}|([%_\-]))", re.IGNORECASE)
_END = re.compile(rb"(?:\.[a-z0-9]*[a-z][a-z0-9]*|\.[a-z0-9]+(?:-+[a-z0-9]+)+)\.?\Z", re.IGNORECASE)
_MACRO_END = re.compile(rb"%\{[a-z][0-9]*r?[.\-+,/_=]*\}\Z", re.IGNORECASE)
LETTERS = b"slodiphv"
EXPLANATION_LETTERS = LETTERS + b"crt"


class BadRecord(Exception):
    """The record is no SPF record by its syntax: permerror."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One mechanism. ``network`` is that of ip4 and ip6, packed; prefix lengths are in bits."""

    qualifier: bytes
    name: bytes
    domain: bytes = b""
    network: bytes = b""
    bits4: int = 32
    bits6: int = 128
    text: bytes = b""  # as it stands in the record


@dataclass(frozen=True, slots=True)
class Record:
    """A record: what to try in turn, where to go on, where the explanation is; empty where there is none."""

    mechanisms: tuple[Mechanism, ...] = ()
    redirect: bytes = b""
    explanation: bytes = b""


def is_record(text: bytes) -> bool:
    """Whether a TXT record is SPF's, version 1 (RFC 7208 section 4.5)."""
    return text[:6].lower() == b"v=spf1" and text[6:7] in (b"", b" ")


@lru_cache(maxsize=256)
def parse_record(text: bytes) -> Record:
    """The record that begins with ``v=spf1``. Raises BadRecord."""
    if len(text) > RECORD_MAX or not text.isascii():
        raise BadRecord("too long, or not ASCII")
    return parse_terms(text[6:])


def parse_terms(text: bytes) -> Record:
    """The terms of a record. Raises BadRecord for any that is malformed, wherever it stands."""
    mechanisms: list[Mechanism] = []
    modifiers: dict[bytes, bytes] = {}
    for term in text.split(b" "):
        modifier = _MODIFIER.match(term)
        if modifier:
            name, value = modifier[1].lower(), modifier[2]
            check_macros(value, domain=name in (b"redirect", b"exp"))
            if name in (b"redirect", b"exp"):
                if name in modifiers:
                    raise BadRecord(f"two {name.decode()} modifiers")
                modifiers[name] = value
        elif term:
            mechanisms.append(_parse_mechanism(term))
    return Record(tuple(mechanisms), modifiers.get(b"redirect", b""), modifiers.get(b"exp", b""))


def _parse_mechanism(term: bytes) -> Mechanism:
    found = _MECHANISM.fullmatch(term)
    if not found:
        raise BadRecord(_shown(term))
    qualifier, name, rest = found[1] or b"+", found[2].lower(), found[3] or found[4] or b""
    if name == b"all":
        if rest:
            raise BadRecord(_shown(term))
        return Mechanism(qualifier, name, text=term)
    if name in (b"include", b"exists"):
        check_macros(rest[1:], domain=True)
        return Mechanism(qualifier, name, rest[1:], text=term)
    if name in (b"a", b"mx"):
        return _parse_address_mechanism(qualifier, name, rest, term)
    if name == b"ptr":
        if rest[:1] == b"/":
            raise BadRecord(_shown(term))
        if rest:
            check_macros(rest[1:], domain=True)
        return Mechanism(qualifier, name, rest[1:], text=term)
    if name in (b"ip4", b"ip6"):
        return _parse_network(qualifier, name, rest, term)
    raise BadRecord(_shown(term))


def _parse_address_mechanism(qualifier: bytes, name: bytes, rest: bytes, term: bytes) -> Mechanism:
    at = _DUAL.search(rest)
    assert at is not None  # it matches the empty end
    domain, lengths = rest[: at.start()], _CIDR.match(at[0])
    if domain:
        check_macros(domain[1:], domain=True)
    if lengths is None or int(lengths[1] or 32) > 32 or int(lengths[2] or 128) > 128:
        raise BadRecord(_shown(term))
    return Mechanism(qualifier, name, domain[1:], bits4=int(lengths[1] or 32), bits6=int(lengths[2] or 128), text=term)


def _parse_network(qualifier: bytes, name: bytes, rest: bytes, term: bytes) -> Mechanism:
    address, slash, length = rest[1:].partition(b"/")
    widest = 32 if name == b"ip4" else 128
    bits = _CIDR.match(slash + length if name == b"ip4" else slash * 2 + length)
    group = 1 if name == b"ip4" else 2
    try:
        if bits is None or (slash and not length.isdigit()):
            raise ValueError
        size = int(bits[group] or widest)
        if size > widest:
            raise ValueError
        family = socket.AF_INET if name == b"ip4" else socket.AF_INET6
        network = socket.inet_pton(family, address.decode("ascii"))
    except (OSError, ValueError):
        raise BadRecord(_shown(term)) from None
    return Mechanism(qualifier, name, network=network, bits4=size, bits6=size, text=term)


def check_macros(text: bytes, *, domain: bool, letters: bytes = LETTERS) -> None:
    """Look whether ``text`` is a macro-string, with ``domain`` a domain-spec (section 7.1). Raises BadRecord."""
    if domain and not text:
        raise BadRecord("a domain is missing")
    bare = _MACRO.sub(b"", text)
    if b"%" in bare or (domain and any(not 0x21 <= byte <= 0x7E for byte in bare)):
        raise BadRecord(_shown(text))
    for found in _MACRO.finditer(text):
        if found[1] and (found[1].lower() not in letters or (found[2] and not int(found[2]))):
            raise BadRecord(_shown(text))
        if found[2] and int(found[2]) > 128:
            raise BadRecord(_shown(text))
    if domain and not _END.search(text) and not _MACRO_END.search(text):
        raise BadRecord(_shown(text))


def _shown(text: bytes) -> str:
    return text[:80].decode("ascii", "replace")


def macros() -> "re.Pattern[bytes]":
    """What a macro looks like: letter, number, ``r``, delimiters, or the sign after ``%``."""
    return _MACRO
