"""The macros of SPF records and explanations (RFC 7208 section 7)."""

import re
import time
from collections.abc import Callable
from urllib.parse import quote_from_bytes

from pyqmail.mailauth.spf_record import macros
from pyqmail.protocol.dns import format_address

NAME_MAX = 253  # bytes; of a longer name labels are left out on the left
_SIGNS = {b"%": b"%", b"_": b" ", b"-": b"%20"}


class Expander:
    """The values of the macros for one client. ``validated`` finds its name in a domain, for ``%{p}``."""

    def __init__(
        self, ip: bytes, sender: bytes, helo: bytes, receiver: bytes, validated: Callable[[bytes], bytes]
    ) -> None:
        self._ip = ip
        self._sender = sender
        self._helo = helo
        self._receiver = receiver
        self._validated = validated

    @property
    def reverse_name(self) -> bytes:
        """Where PTR records of the address are."""
        if len(self._ip) == 4:
            return b".".join(reversed(self._dotted.split(b"."))) + b".in-addr.arpa"
        return b".".join(reversed(self._dotted.split(b"."))) + b".ip6.arpa"

    @property
    def _dotted(self) -> bytes:
        if len(self._ip) == 4:
            return format_address(self._ip).encode()
        return b".".join(b"%c" % digit for digit in self._ip.hex().upper().encode())

    def expand(self, text: bytes, domain: bytes, *, explaining: bool = False) -> bytes:
        """``text`` with the value of each macro; ``domain`` is the one whose record it stands in."""

        def value_of(found: re.Match[bytes]) -> bytes:
            if found[5]:
                return _SIGNS[found[5]]
            value = self._value(found[1].lower(), domain)
            value = _transformed(value, int(found[2] or 0), reverse=bool(found[3]), delimiters=found[4] or b".")
            return quote_from_bytes(value, safe="").encode() if found[1].isupper() else value

        return macros().sub(value_of, text)

    def _value(self, letter: bytes, domain: bytes) -> bytes:
        local, _, host = self._sender.rpartition(b"@")
        if letter == b"p":
            return self._any_name(domain)
        values = {
            b"s": self._sender, b"l": local, b"o": host, b"d": domain, b"h": self._helo, b"i": self._dotted,
            b"v": b"in-addr" if len(self._ip) == 4 else b"ip6", b"c": format_address(self._ip).encode(),
            b"r": self._receiver, b"t": b"%d" % time.time(),
        }  # fmt: skip
        return values[letter]

    def _any_name(self, domain: bytes) -> bytes:
        """The name of the client: in the domain, else any, as section 7.3 prefers them."""
        name = self._validated(domain)
        return name if name != b"unknown" else self._validated(b"")


def _transformed(value: bytes, count: int, *, reverse: bool, delimiters: bytes) -> bytes:
    for sign in delimiters:
        value = value.replace(b"%c" % sign, b"\0")
    parts = value.split(b"\0")
    if reverse:
        parts.reverse()
    return b".".join(parts[-count:] if count else parts)


def trimmed(name: bytes) -> bytes:
    """``name``, as many labels of it as a name may have bytes for (section 7.3)."""
    name = name.removesuffix(b".")
    while len(name) > NAME_MAX and b"." in name:
        name = name.partition(b".")[2]
    return name
