"""Who may connect: the rules of tcprules and tcpserver -x, as text, as database records and as a decision.

A record's key is the rule's address; its data is ``D NUL`` for a denial and then ``+NAME=value NUL`` for each variable.
The first key that is found decides alone.

IPv6 addresses and networks stand in brackets, since a colon ends the address of a rule: ``[2001:db8::1]:deny``,
``[2001:db8::/32]:allow``, ``joe@[::1]:allow``. Their keys are ``2001:db8::1`` and ``2001:db8::/32``, in the kernel's
spelling. A network whose size is no multiple of 4 bits becomes the 2, 4 or 8 that are (/29: eight of /32), so that a
look-up tries 32 of them at most.
"""

import socket
from collections.abc import Callable, Iterator

from pyqmail.values import value

OCTET_MAX = 255
BLANKS = b" \t\n"
IPV6_BITS = 128
MAPPED = bytes(10) + b"\xff\xff"  # what an IPv4 address looks like on an IPv6 socket (RFC 4291 section 2.5.5.2)


class BadRule(Exception):
    """A line that is no rule; ``line`` is what to show."""

    def __init__(self, line: bytes) -> None:
        super().__init__(line)
        self.line = line


@value
class Decision:
    """What the rules say of one connection; ``key`` is None when no rule was found."""

    key: bytes | None = None
    deny: bool = False
    variables: tuple[tuple[bytes, bytes], ...] = ()


NO_RULE = Decision()  # of each connection where there are none


def parse_rules(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The database records of the rules in ``data``, in order. Raises BadRule."""
    for raw in data.split(b"\n"):
        line = raw.rstrip(BLANKS)
        address, colon, instructions = line.partition(b":")
        if line.startswith(b"#") or not colon:
            continue
        bracketed = _bracketed(line)
        if bracketed is not None:
            address, instructions = bracketed
        record = _record(instructions)
        if record is None:
            raise BadRule(line)
        try:
            keys = _addresses(address) if bracketed is None else _ipv6_keys(address)
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


def _bracketed(line: bytes) -> tuple[bytes, bytes] | None:
    """The address and the instructions of a line that names an IPv6 address or network; None for any other line."""
    info, bracket, rest = line.partition(b"[")
    inside, close, instructions = rest.partition(b"]")
    if not bracket or b":" in info or (info and not info.endswith(b"@")) or not close or instructions[:1] != b":":
        return None
    try:
        socket.inet_pton(socket.AF_INET6, inside.partition(b"/")[0].decode("ascii"))
    except (OSError, ValueError):
        return None
    return info + inside, instructions[1:]


def _ipv6_keys(address: bytes) -> list[bytes]:
    """The keys of an IPv6 address, INFO@ before it, or of a network. Raises ValueError."""
    info, at, inside = address.rpartition(b"@")
    text, slash, bits = inside.partition(b"/")
    try:
        packed = socket.inet_pton(socket.AF_INET6, text.decode("ascii"))
    except OSError:  # an @ behind the slash: what is before it is no address
        raise ValueError(address) from None
    if not slash:
        return [info + at + canonical(text)]
    if at or not bits.isdigit() or int(bits[:4]) > IPV6_BITS or packed.startswith(MAPPED):
        raise ValueError(address)
    size = int(bits)
    if size == IPV6_BITS:
        return [canonical(text)]
    whole = -(-size // 4) * 4
    first = int.from_bytes(packed, "big") >> (IPV6_BITS - size) << (whole - size)
    return [_network(number, whole) for number in range(first, first + (1 << (whole - size)))]


def _network(number: int, size: int) -> bytes:
    """The key of the network whose first ``size`` bits are ``number``."""
    packed = (number << (IPV6_BITS - size)).to_bytes(16, "big")
    return b"%b/%d" % (socket.inet_ntop(socket.AF_INET6, packed).encode(), size)


def canonical(ip: bytes) -> bytes:
    """An address as the kernel spells it, an IPv4 one in IPv6 clothes as what it is; other text stays as it is."""
    try:
        packed = socket.inet_pton(socket.AF_INET6, ip.decode("ascii"))
    except (OSError, ValueError):
        return ip
    if packed.startswith(MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:]).encode()
    return socket.inet_ntop(socket.AF_INET6, packed).encode()


def _prefixes(ip: bytes) -> Iterator[bytes]:
    """The keys of the networks that an address is in, smallest first."""
    if b":" not in ip:
        for end in range(len(ip) - 1, 0, -1):
            if ip[end - 1 : end] == b".":
                yield ip[:end]
        return
    try:
        number = int.from_bytes(socket.inet_pton(socket.AF_INET6, ip.decode("ascii")), "big")
    except (OSError, ValueError):
        return
    for size in range(IPV6_BITS - 4, -1, -4):
        yield _network(number >> (IPV6_BITS - size), size)


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
    if b":" in ip:
        ip = canonical(ip)
    if info is not None:
        yield info + b"@" + ip
        if host is not None:
            yield info + b"@=" + host
    yield ip
    if host is not None:
        yield b"=" + host
    yield from _prefixes(ip)
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
