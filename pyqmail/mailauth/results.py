"""Authentication-Results, written and read (RFC 8601), and Received-SPF (RFC 7208 section 9.1).

The reader takes what others write: a quoted authserv-id, a ``;`` at the end, comments anywhere. What it cannot read it
leaves out. Light: programs that send read these fields, too.
"""

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyqmail.control import Control

FIELD = b"Authentication-Results"
VALUE_MAX = 256  # bytes of one value that we write
BODY_MAX = 65536  # bytes of a field that are read
_TOKEN = re.compile(rb"[A-Za-z0-9!#$&'*+\-.^_`{|}~/@]+\Z")
_UNSAFE = re.compile(rb"[^\x20-\x7e]")
_WORD = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[^\s"();=]+|[;=]|\(', re.DOTALL)


class Result:
    """One result: its method, as ``dkim``, what it is, why, and properties as ``header.d`` with their values."""

    __slots__ = ("comment", "method", "properties", "reason", "result")

    def __init__(
        self,
        method: bytes,
        result: bytes,
        properties: "Sequence[tuple[bytes, bytes]]" = (),
        *,
        reason: bytes = b"",
        comment: bytes = b"",
    ) -> None:
        self.method = method
        self.result = result
        self.properties = tuple(properties)
        self.reason = reason
        self.comment = comment

    def get(self, name: bytes) -> bytes:
        """The value of a property; empty without it."""
        return next((value for key, value in self.properties if key == name), b"")

    def format(self) -> bytes:
        """``dkim=pass (comment) reason="..." header.d=example.org``."""
        words = [self.method + b"=" + self.result]
        if self.comment:
            words.append(b"(" + re.sub(rb"[()\\]", b"?", safe(self.comment)) + b")")
        if self.reason:
            words.append(b"reason=" + quoted(self.reason, always=True))
        return b" ".join([*words, *(name + b"=" + quoted(value) for name, value in self.properties if value)])


def safe(text: bytes) -> bytes:
    """``text`` on one line of printable ASCII, of bounded length."""
    return _UNSAFE.sub(b"?", text[:VALUE_MAX])


def quoted(text: bytes, *, always: bool = False) -> bytes:
    """``text`` as a value: as it is, or in quotes. No byte of it ends the line or the value."""
    text = safe(text)
    if _TOKEN.match(text) and not always:
        return text
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def format_results(authserv_id: bytes, results: "Sequence[Result]") -> bytes:
    """The field, one result a line, with its last LF."""
    found = [each.format() for each in results] or [b"none"]
    return FIELD + b": " + quoted(authserv_id) + b";\n\t" + b";\n\t".join(found) + b"\n"


def own_authserv_id(control: "Control") -> bytes:
    """The name in our own fields, in lower case. Raises ControlUnreadable."""
    return (control.line_or_me("authservid") or b"localhost").lower()


def parse_results(body: bytes) -> "tuple[bytes, list[Result]]":
    """The authserv-id in lower case, and the results that can be read. Never raises."""
    parts: list[list[bytes]] = [[]]
    for word in _words(body[:BODY_MAX]):
        if word == b";":
            parts.append([])
        else:
            parts[-1].append(word)
    name = parts[0][0] if parts[0] else b""
    return _bare(name).lower(), [found for found in map(_result, parts[1:]) if found is not None]


def authserv_id(body: bytes) -> bytes:
    """Who claims to have written a field, in lower case."""
    for word in _words(body[:BODY_MAX]):
        return b"" if word == b";" else _bare(word).lower()
    return b""


def _words(text: bytes) -> "Iterator[bytes]":
    at = 0
    while at < len(text):
        found = _WORD.search(text, at)
        if found is None:
            return
        at = found.end()
        if found[0] == b"(":
            at = _after_comment(text, at)
        else:
            yield found[0]


def _after_comment(text: bytes, at: int) -> int:
    depth = 1
    while at < len(text) and depth:
        sign = text[at : at + 1]
        at += 2 if sign == b"\\" else 1
        depth += {b"(": 1, b")": -1}.get(sign, 0)
    return at


def _bare(word: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", word[1:-1], flags=re.DOTALL) if word[:1] == b'"' else word


def _joined(words: list[bytes]) -> list[bytes]:
    """With names in one piece, as ``dkim/1`` and ``header.d``, around whose signs others leave blanks and comments."""
    found: list[bytes] = []
    for word in words:
        is_value = found[-2:-1] == [b"="] or found[-1:] in ([], [b"="])
        if not is_value and (word[:1] in b"/." or found[-1][-1:] in b"/."):
            found[-1] += word
        else:
            found.append(word)
    return found


def _result(words: list[bytes]) -> Result | None:
    """``dkim / 1 = pass``, then ``reason = x`` and properties; None for anything else."""
    words = _joined(words)
    pairs = [(words[at - 1], words[at + 1]) for at in range(1, len(words) - 1) if words[at] == b"="]
    if len(words) < 3 or not pairs or words[1] != b"=":
        return None
    method = pairs[0][0].partition(b"/")[0].lower()
    rest = [(name.lower(), _bare(value)) for name, value in pairs[1:]]
    reason = next((value for name, value in rest if name == b"reason"), b"")
    properties = [(name, value) for name, value in rest if b"." in name]
    return Result(method, pairs[0][1].lower(), properties, reason=reason)


def format_received_spf(
    result: bytes, ip: bytes, sender: bytes, helo: bytes, receiver: bytes, mechanism: bytes, problem: bytes
) -> bytes:
    """The field with its last LF; an empty ``sender`` is a bounce, whose HELO name was looked at."""
    comment = b"%b: %b is %b" % (receiver, ip, _SAYS.get(result, b"not judged") % (sender or helo))
    pairs = [
        (b"receiver", receiver), (b"identity", b"mailfrom" if sender else b"helo"), (b"client-ip", ip),
        (b"envelope-from", sender), (b"helo", helo), (b"mechanism", mechanism), (b"problem", problem),
    ]  # fmt: skip
    told = b";\n\t".join(name + b"=" + quoted(value, always=b":" in value) for name, value in pairs if value)
    return b"Received-SPF: " + result + b" (" + re.sub(rb"[()\\]", b"?", safe(comment)) + b")\n\t" + told + b"\n"


_SAYS = {
    b"pass": b"permitted by the domain of %b",
    b"fail": b"not permitted by the domain of %b",
    b"softfail": b"probably not permitted by the domain of %b",
    b"neutral": b"neither permitted nor denied by the domain of %b",
    b"none": b"not known to the domain of %b, which has no record",
    b"temperror": b"not judged, for want of an answer about the domain of %b",
    b"permerror": b"not judged, because of a mistake in the record of the domain of %b",
}
