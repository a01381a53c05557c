"""Tag lists ``a=b; c=d`` of DKIM, ARC and DMARC (RFC 6376 section 3.2)."""

import base64
import re

TAGS_MAX = 100
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*\Z")
_BLANKS = re.compile(rb"[ \t\r\n]+")


class BadTags(Exception):
    """The text is no tag list; the text of the exception says why."""


def parse_tags(text: bytes) -> dict[bytes, bytes]:
    """The tags of ``text`` with their values, no blanks around them. Raises BadTags, also for a tag that is twice."""
    found: dict[bytes, bytes] = {}
    parts = text.split(b";", TAGS_MAX + 1)
    if len(parts) > TAGS_MAX:
        raise BadTags("too many tags")
    for place, part in enumerate(parts):
        name, equals, value = part.partition(b"=")
        name = name.strip(b" \t\r\n")
        if not name and not equals and place == len(parts) - 1:
            break
        if not equals or not _NAME.match(name):
            raise BadTags("a tag is malformed")
        if name in found:
            raise BadTags(f"two {name.decode()}= tags")
        found[name] = value.strip(b" \t\r\n")
    return found


def parse_base64(text: bytes) -> bytes:
    """The bytes in ``text``, blanks and all. Raises BadTags."""
    try:
        return base64.b64decode(_BLANKS.sub(b"", text), validate=True)
    except ValueError:
        raise BadTags("base64 is malformed") from None


def without_blanks(text: bytes) -> bytes:
    """``text`` with no blanks in it."""
    return _BLANKS.sub(b"", text)


def parse_number(text: bytes) -> int:
    """The number in ``text``, of 12 digits at most. Raises BadTags."""
    if not text.isdigit() or len(text) > 12:
        raise BadTags("a number is malformed")
    return int(text)
