"""What DKIM hashes of a message: canonical headers and bodies (RFC 6376 section 3.4).

Text comes with LF line ends, as the queue has it; each becomes CR LF. A last line without its end gets one first.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

HEADER_MAX = 1048576  # bytes; of a longer header nothing is believed
FIELDS_MAX = 10000
BLANKS_SLICE = 4096  # empty lines that are hashed at once
_BLANKS = re.compile(rb"[ \t]+")
_FIELD = re.compile(rb"([\x21-\x39\x3b-\x7e]+)[ \t]*:.*?\n(?![ \t])", re.DOTALL)


class BadHeader(Exception):
    """The header is no header, or too long: no signature of it can be right."""


class Field(NamedTuple):
    """One field: its lower-cased name, and all of it with LF line ends and the last of them."""

    name: bytes
    text: bytes

    @property
    def body(self) -> bytes:
        """What follows the colon."""
        return self.text.partition(b":")[2]


def parse_fields(header: bytes) -> list[Field]:
    """The fields of a header, from top to bottom. Raises BadHeader.

    A line that is no field, as a ``From `` in the middle, makes all of it worthless: readers differ about what it is.
    """
    if len(header) > HEADER_MAX:
        raise BadHeader("the header is too long")
    if header[:1] in (b" ", b"\t"):
        raise BadHeader("the header begins with a blank")
    if header and header[-1:] != b"\n":
        header += b"\n"
    fields: list[Field] = []
    at = 0
    while at < len(header):
        found = _FIELD.match(header, at)
        if found is None:
            raise BadHeader("a line of the header is no field")
        if len(fields) >= FIELDS_MAX:
            raise BadHeader("the header has too many fields")
        fields.append(Field(found[1].lower(), found[0]))
        at = found.end()
    return fields


def split_message(pieces: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The header with its last line end, and the body in pieces. Raises BadHeader for one that is too long."""
    source = iter(pieces)
    text = b""
    for piece in source:
        text += piece
        if text[:1] == b"\n":
            return b"", _then(text[1:], source)
        end = text.find(b"\n\n", max(0, len(text) - len(piece) - 1))
        if end >= 0:
            return text[: end + 1], _then(text[end + 2 :], source)
        if len(text) > HEADER_MAX:
            raise BadHeader("the header is too long")
    return text, iter(())


def _then(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def simple_field(text: bytes) -> bytes:
    """A field as it is, with CR LF line ends."""
    return text.replace(b"\n", b"\r\n")


def relaxed_field(text: bytes) -> bytes:
    """A field with its name in lower case, unfolded, each run of blanks one space, none around the value."""
    name, _, body = text.partition(b":")
    body = _BLANKS.sub(b" ", body.replace(b"\n", b"")).strip(b" ")
    return name.rstrip(b" \t").lower() + b":" + body + b"\r\n"


HEADER_FORMS = {b"simple": simple_field, b"relaxed": relaxed_field}


class BodyHash:
    """The SHA-256 of one canonical form of a body, at most ``limit`` bytes of it; fed piece by piece."""

    def __init__(self, form: bytes, limit: int | None = None) -> None:
        self._relaxed = form == b"relaxed"
        self._limit = limit
        self._hash = hashlib.sha256()
        self._blank = 0  # line ends that count only if something follows
        self._space = False  # a blank that counts only if something follows in its line
        self._empty = True
        self.size = 0  # bytes of the canonical body so far

    def feed(self, text: bytes) -> None:
        """Some more of the body."""
        if self._relaxed:
            text = b" " + text if self._space else text
            if b"\t" in text or b"  " in text:  # looking is many times as fast as replacing, and mostly enough
                text = _BLANKS.sub(b" ", text)
            text = text.replace(b" \n", b"\n")
            self._space = text.endswith(b" ")
            text = text[:-1] if self._space else text
        content = text.lstrip(b"\n")
        self._blank += len(text) - len(content)
        if not content:
            return
        lines = content.rstrip(b"\n")
        while self._blank:
            some = min(self._blank, BLANKS_SLICE)
            self._add(b"\r\n" * some)
            self._blank -= some
        self._add(lines.replace(b"\n", b"\r\n"))
        self._blank = len(content) - len(lines)
        self._empty = False

    def digest(self) -> bytes:
        """The hash of all. Call it once."""
        if not self._empty or not self._relaxed:
            self._add(b"\r\n")
        return self._hash.digest()

    def _add(self, data: bytes) -> None:
        if self._limit is not None:
            self._hash.update(data[: max(0, self._limit - self.size)])
        else:
            self._hash.update(data)
        self.size += len(data)


def signed_fields(fields: list[Field], names: Iterable[bytes]) -> Iterator[Field]:
    """The field that each of ``names`` stands for: of equal ones the last first (RFC 6376 section 5.4.2)."""
    left: dict[bytes, list[Field]] = {}
    for field in fields:
        left.setdefault(field.name, []).append(field)
    for name in names:
        if left.get(name.lower()):
            yield left[name.lower()].pop()


_B_VALUE = re.compile(rb"(?:\A|;)[ \t\r\n]*b[ \t\r\n]*=([^;]*)")


def without_signature(text: bytes) -> bytes:
    """A signature field with the value of its ``b=`` left out, which is what is hashed of it."""
    name, colon, body = text.partition(b":")
    found = _B_VALUE.search(body)
    return name + colon + (body[: found.start(1)] + body[found.end(1) :] if found else body)
