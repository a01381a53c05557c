"""The sending side of QMQP without descriptors (cr.yp.to/proto/qmqp.html; qmail-qmqpc(8)). Light to import."""

PORT = 628


class EnvelopeBroken(Exception):
    """The bytes for qmail-queue's descriptor 1 are not an envelope."""


def parse_envelope(data: bytes) -> tuple[bytes, list[bytes]]:
    """Sender and recipients, of any length: the server judges them. Raises EnvelopeBroken."""
    records = data.split(b"\0")
    if len(records) < 2 or records[0][:1] != b"F":
        raise EnvelopeBroken
    recipients: list[bytes] = []
    for record in records[1:-1]:  # what follows the last NUL is no record
        if not record:
            return records[0][1:], recipients
        if record[:1] != b"T":
            raise EnvelopeBroken
        recipients.append(record[1:])
    raise EnvelopeBroken


def frame(message_bytes: int, sender: bytes, recipients: list[bytes]) -> tuple[bytes, bytes]:
    """What goes before and after a message of ``message_bytes`` bytes."""
    before = b"%d:" % message_bytes
    addresses = [b"%d:%b," % (len(address), address) for address in (sender, *recipients)]
    after = b"," + b"".join(addresses)
    return b"%d:%b" % (len(before) + message_bytes + len(after), before), after + b","


def first_letter(answer: bytes) -> bytes:
    """The first K, Z or D in what a server says, or nothing: the framing around it is not looked at."""
    for byte in answer:
        if byte in b"KZD":
            return bytes((byte,))
    return b""


def parse_ipv4(line: bytes) -> str | None:
    """The dotted address that ``line`` starts with, whatever follows it; None when it starts with none."""
    numbers = []
    for _ in range(4):
        digits = line[: len(line) - len(line.lstrip(b"0123456789"))]
        if not digits:
            return None
        numbers.append(str(int(digits[:18]) & 255))
        line = line[len(digits) :]
        if len(numbers) < 4:
            if line[:1] != b".":
                return None
            line = line[1:]
    return ".".join(numbers)
