"""The files of fastforward: forwarding databases, binary lists, and their sources (setforward(1), setmaillist(1)).

    database   ":TARGET" -> commands    "?TARGET" -> owner address    the target in lower case
    commands   each a type byte, its text and NUL:  &recipient  /list or ./list  |program  !program with preline's lines
    list       commands of the first two types, nothing before, between or after them

Pure and light. These bytes are interchangeable with those of fastforward 0.51.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Record = tuple[bytes, bytes]

ADDRESS_MAX = 800  # of a recipient command, with a ``&`` that was written; fastforward's limit
TYPES = (b"&", b"/", b".", b"|", b"!")
LIST_TYPES = (b"&", b"/", b".")
_OTHER_TYPES = TYPES[1:]
_PLAIN = frozenset(range(33, 127)) - frozenset(b"#,:;\\")


class SourceError(Exception):
    """A source file cannot be converted; the text says why."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


class BadFormat(Exception):
    """A record or a list is not of the form above."""


def parse_commands(data: bytes, types: tuple[bytes, ...] = TYPES) -> list[bytes]:
    """The commands in the data of a record or in a list, without their NULs. Raises BadFormat."""
    if not data:
        return []
    commands = data.split(b"\0")
    if commands.pop() or any(command[:1] not in types for command in commands):
        raise BadFormat
    return commands


# Forwarding instructions


def parse_source(text: bytes) -> "list[Record]":
    """The records of a setforward source, in the order of their writing. Raises SourceError."""
    from pyqmail.formats.plain_text import plain_text  # fastforward reads no sources

    records: list[Record] = []
    target: bytes | None = None
    commands: list[bytes] = []
    for word, mark, bracket in _words(plain_text(text)):
        if target is None:
            if mark == b":":
                target, commands = word.lower(), []
            elif mark:
                raise SourceError(b"commas are not permitted before colons")
            elif word:
                raise SourceError(b"final instruction must end with semicolon")
            continue
        if mark == b":":
            raise SourceError(b"double colons are not permitted")
        if not mark:
            raise SourceError(b"final instruction must end with semicolon")
        if word.startswith(b"?"):
            records.append((b"?" + target, word[1:]))
        elif word:
            commands += [
                _command(each) + b"\0" for each in (_addresses(word) if bracket and word[-1:] == b">" else [word])
            ]
        if mark == b";":
            if commands:
                records.append((b":" + target, b"".join(commands)))
            target = None
    return records


def _words(text: bytes) -> "Iterator[tuple[bytes, bytes, bool]]":
    """Each word, the mark that ends it, and whether it has an angle bracket that no backslash keeps.

    A mark is a colon, a comma, a semicolon, or nothing at the end of the text.
    """
    word = bytearray()
    kept, bracket = 0, False  # the bytes up to the last that a backslash keeps
    at, end = 0, len(text)
    while at < end:
        byte = text[at]
        at += 1
        if byte == 0x23:  # a comment, to the end of its line
            at = text.find(b"\n", at) + 1 or end
        elif byte in b" \t\n":
            continue
        elif byte in b":,;":
            yield bytes(word[:kept] + word[kept:].rstrip(b"\r")), text[at - 1 : at], bracket
            word.clear()
            kept, bracket = 0, False
        else:
            escaped = byte == 0x5C
            if escaped:
                if at == end:
                    break
                byte = text[at]
                at += 1
            if byte == 0:
                raise SourceError(b"NUL bytes are not permitted")
            word.append(byte)
            bracket = bracket or (byte == 0x3C and not escaped)
            kept = len(word) if escaped else kept
    yield bytes(word), b"", bracket


def _addresses(word: bytes) -> list[bytes]:
    """The commands in ``word``, which may be a list of addresses with names (addresses(5))."""
    if word[:1] in _OTHER_TYPES:
        return [word]
    from pyqmail.formats.address_list import parse_addresses  # most are plain

    return parse_addresses(word.removeprefix(b"&")) or [word]


def _command(word: bytes) -> bytes:
    """A command as it is stored. Raises SourceError."""
    if word[:1] in _OTHER_TYPES:
        return word
    if len(word) > ADDRESS_MAX:
        raise SourceError(b"addresses over 800 bytes are not permitted")
    return word if word.startswith(b"&") else b"&" + word


def format_instruction(key: bytes, data: bytes) -> bytes:
    """A record as a line or several of a setforward source. Raises BadFormat."""
    target = _escaped(key[1:])
    if key.startswith(b"?"):
        return target + b": ?" + _escaped(data) + b";\n"
    if not key.startswith(b":"):
        raise BadFormat
    commands = [b", " + command[:1] + _escaped(command[1:]) + b"\n" for command in parse_commands(data)]
    return target + b":\n" + b"".join(commands) + b";\n"


def _escaped(text: bytes) -> bytes:
    if _PLAIN.issuperset(text):
        return text
    return b"".join(b"%c" % byte if byte in _PLAIN else b"\\%c" % byte for byte in text)


# Lists


def parse_list_lines(text: bytes) -> bytes:
    """The binary list of a setmaillist source. Raises SourceError."""
    from pyqmail.formats.plain_text import plain_text

    commands = []
    for line in plain_text(text).split(b"\n"):
        line = line.rstrip(b" \t")
        if b"\0" in line:
            raise SourceError(b"NUL in input")
        if not line or line.startswith(b"#"):
            continue
        listed = line[:1] not in (b".", b"/") and (b"<" in line or b"," in line)
        for command in _addresses(line) if listed else (line,):
            if command[:1] not in (b".", b"/"):
                if len(command) > ADDRESS_MAX:
                    raise SourceError(b"addresses must be under 800 bytes")
                command = command if command.startswith(b"&") else b"&" + command
            commands.append(command + b"\0")
    return b"".join(commands)


def format_list(data: bytes) -> bytes:
    """A binary list as lines of a setmaillist source. Raises BadFormat."""
    commands = parse_commands(data, LIST_TYPES)
    if b"\n" in data:
        raise BadFormat
    return b"".join(command + b"\n" for command in commands)
