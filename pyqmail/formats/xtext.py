"""xtext: bytes as printable ASCII without blanks, ``+`` and two hexadecimal digits for each other one (RFC 3461 4)."""

import re

_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_ENCODED = re.compile(rb"\+([0-9A-F]{2})")


def is_xtext(text: bytes) -> bool:
    """Whether ``text`` is xtext, empty included."""
    return _XTEXT.fullmatch(text) is not None


def decode_xtext(text: bytes) -> bytes:
    """The bytes that xtext ``text`` stands for; what is none of its escapes stands for itself."""
    return _ENCODED.sub(lambda found: bytes((int(found[1], 16),)), text)
