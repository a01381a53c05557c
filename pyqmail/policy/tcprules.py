"""Who may connect: the rules of tcprules and tcpserver -x, as text, as database records and as a decision.

A record's key is the rule's address; its data is ``D NUL`` for a denial and then ``+NAME=value NUL`` for each variable.
The first key that is found decides alone. An IPv6 address holds colons, so no rule line can name one: for it the host
rules and the rule with the empty address decide.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

OCTET_MAX = 255
BLANKS = b" \t\n"


class BadRule(Exception):
    """A line that is no rule; ``line`` is what to show."""

    def __init__(self, line: bytes) -> None:
        super().__init__(line)
        self.line = line


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say of one connection; ``key`` is None when no rule was found."""

    key: bytes | None = None
    deny: bool = False
    variables: tuple[tuple[bytes, bytes], ...] = ()


def parse_rules(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The database records of the rules in ``data``, in order. Raises BadRule."""
    for raw in data.split(b"\n"):
        line = raw.rstrip(BLANKS)
        address, colon, instructions = line.partition(b":")
        if line.startswith(b"#") or not colon:
            continue
        record = _record(instructions)
        if record is None:
            raise BadRule(line)
        try:
            keys = _addresses(address)
        except ValueError:
            raise BadRule(line) from None
        for key in keys:
            yield key, record


def decide(look_up: Callable[[bytes], bytes | None], ip: bytes, host: bytes | None, info: bytes | None) -> Decision:
    """The decision of the first rule found by ``look_up`` (key to data) for a client; without one, allow."""
    for key in _keys(ip, host, info):
        data = look_up(key)
        if data is not None:
            return _decision(key, data)
    return Decision()


def _record(instructions: bytes) -> bytes | None:
    """``allow`` or ``deny`` and the assignments after it as a record's data; None if it is anything else."""
    if instructions.startswith(b"allow"):
        data, rest = b"", instructions[5:]
    elif instructions.startswith(b"deny"):
        data, rest = b"D\0", instructions[4:]
    else:
        return None
    while rest:
        name, equals, quoted = rest[1:].partition(b"=")
        if rest[:1] != b"," or not equals or not quoted:
            return None
        value, quote, rest = quoted[1:].partition(quoted[:1])
        if not quote:
            return None
        data += b"+" + name + b"=" + value + b"\0"
    return data


def _addresses(address: bytes) -> list[bytes]:
    """``address``, or what its first range stands for. Raises ValueError for a range that is not of numbers."""
    before, dash, after = address.partition(b"-")
    if not dash or b"=" in address or b"@" in address:
        return [address]
    head, dot, low = before.rpartition(b".")
    high, tail_dot, tail = after.partition(b".")
    first, last = _number(low), min(_number(high), OCTET_MAX)
    return [head + dot + b"%d" % number + tail_dot + tail for number in range(first, last + 1)]


def _number(text: bytes) -> int:
    if text and not text.isdigit():
        raise ValueError(text)
    return int(text[:20] or b"0")


def _keys(ip: bytes, host: bytes | None, info: bytes | None) -> Iterator[bytes]:
    """The keys to look for, the most specific first."""
    if info is not None:
        yield info + b"@" + ip
        if host is not None:
            yield info + b"@=" + host
    yield ip
    if host is not None:
        yield b"=" + host
    for end in range(len(ip) - 1, 0, -1):
        if ip[end - 1 : end] == b".":
            yield ip[:end]
    if host is not None:
        for start in range(len(host)):
            if host[start : start + 1] == b".":
                yield b"=" + host[start:]
        yield b"="
    yield b""


def _decision(key: bytes, data: bytes) -> Decision:
    parts = data.split(b"\0")[:-1]
    assignments = (part[1:].partition(b"=") for part in parts if part.startswith(b"+"))
    variables = tuple((name, value) for name, _, value in assignments if name)
    return Decision(key, any(part.startswith(b"D") for part in parts), variables)
