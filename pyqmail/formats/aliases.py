"""sendmail's address files: /etc/aliases, :include: files and .forward (newaliases(1), newinclude(1), dot-forward(1)).

All three hold lists in the syntax of RFC 822 headers, with two additions: ``:include:`` names, and addresses that are
no addresses, such as "|program". Commas may be left out; groups do not exist, so that a lone colon or semicolon means
nothing at all. As in headers a list is read from right to left, and its addresses are stored in that order.

What fastforward 0.51 takes gives its results, byte for byte; formats/alias_text brings what others write into that
form first. Pure and light.
"""

from pyqmail.formats import rfc822
from pyqmail.formats.forwarding import ADDRESS_MAX
from pyqmail.formats.plain_text import plain_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyqmail.formats.forwarding import Record

    Entry = tuple[int, bytes]

INCLUDE, PROGRAM, FILE, LOCAL, ADDRESS = range(5)  # kinds of entries; LOCAL is an address without an ``@``
_WORDS = (rfc822.ATOM, rfc822.QUOTED, rfc822.LITERAL)
_PHRASE = (rfc822.ATOM, rfc822.QUOTED, rfc822.AT, rfc822.DOT)
NULL_DEVICE = b"/dev/null"  # a list of nobody
_MARKS = (b"|", b"#", b":", b"\\\n")  # of what is no plain address, or a comment
_NOTHING = (rfc822.COLON, rfc822.SEMICOLON)


class ListError(Exception):
    """A list says what cannot be done; the text says what, and ``line`` where, counted from 1 (0: not known)."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text
        self.line = 0


class Unparsable(Exception):
    """A line is no list of addresses."""


class Completion:
    """What completes the addresses of a file: defaulthost, defaultdomain and plusdomain (qmail-header(5))."""

    def __init__(self, host: bytes, domain: bytes, plus: bytes) -> None:
        self.host = host
        self.domain = domain
        self.plus = plus

    def complete(self, kind: int, text: bytes) -> bytes:
        """The address with a whole host. Simpler than in a header: nothing is taken away, and literals need a dot."""
        if kind != ADDRESS:
            text += b"@" + self.host
        if text.endswith(b"+"):
            return text[:-1] + b"." + self.plus
        host = text.rpartition(b"@")[2]
        return text if b"." in host else text + b"." + self.domain


def parse_list(line: bytes) -> "list[Entry]":
    """The entries of a list, last one first: a kind and a text, without quotes and comments. Raises Unparsable.

    An INCLUDE has the name of a file, a PROGRAM its command with the bar; the empty address may be among them.
    """
    try:
        return _Reading(rfc822.tokenize(line)).run()
    except rfc822.LexicalError as error:
        raise Unparsable from error


class _Reading:
    """One reading from right to left: ``left`` is still to be read, ``words`` is what stands right of it, reversed."""

    def __init__(self, tokens: "rfc822.Tokens") -> None:
        self.left = [token for token in tokens if token[0] != rfc822.COMMENT]
        self.words: rfc822.Tokens = []
        self.entries: list[Entry] = []

    def run(self) -> "list[Entry]":
        after_word = False  # another word would be another address
        while self.left:
            kind = self.left[-1][0]
            if kind in _NOTHING:
                if self._include():
                    after_word = False
                else:
                    self.left.pop()
                continue
            if kind in (rfc822.COMMA, rfc822.RIGHT) or (after_word and kind in _WORDS):
                self._flush()
            if kind == rfc822.RIGHT:
                self._angle()
            elif kind == rfc822.COMMA:
                self.left.pop()
            else:
                self.words.append(self.left.pop())
            after_word = kind in _WORDS
        self._flush()
        return self.entries

    def _include(self) -> bool:
        """Take ``:include:`` and the name right of it, if that is what stands here."""
        if [token[0] for token in self.left[-3:]] != [rfc822.COLON, rfc822.ATOM, rfc822.COLON]:
            return False
        if self.left[-2][1] != b"include":
            return False
        del self.left[-3:]
        self.words.reverse()
        self.entries.append((INCLUDE, rfc822.plain_address(self.words)))
        self.words = []
        return True

    def _angle(self) -> None:
        """Take an address in angle brackets, and the phrase left of it, which nobody needs. Raises Unparsable."""
        self.left.pop()
        while self.left and self.left[-1][0] != rfc822.LEFT:
            self.words.append(self.left.pop())
        if not self.left:
            raise Unparsable
        self.left.pop()
        self._flush(empty=True)
        while self.left and self.left[-1][0] in _PHRASE:
            self.left.pop()

    def _flush(self, *, empty: bool = False) -> None:
        if self.words or empty:
            self.words.reverse()
            self.entries.append(_entry(self.words))
            self.words = []


def _entry(address: "rfc822.Tokens") -> "Entry":
    text = rfc822.plain_address(address)
    if any(kind == rfc822.AT for kind, _text in address):
        return ADDRESS, text
    if text.startswith(b"~") and b"/" in text:
        return FILE, text
    kinds = {b"|": PROGRAM, b"/": FILE}
    return kinds.get(text[:1], LOCAL), text


def _recipient(kind: int, text: bytes, completion: Completion) -> bytes:
    """A command for an address that is not empty. Raises ListError."""
    if b"\0" in text:
        raise ListError(b"NUL not permitted in recipient addresses")
    text = completion.complete(kind, text)
    if b"\n" in text:
        raise ListError(b"newlines not permitted in recipient addresses")
    if text[-1:] in (b" ", b"\t"):
        raise ListError(b"spaces and tabs not permitted at ends of addresses")
    if len(text) > ADDRESS_MAX:
        raise ListError(b"addresses must be under 800 bytes")
    return b"&" + text


def _include_name(text: bytes) -> bytes:
    """The name of an :include: file, made one that says by its first byte that it is a path. Raises ListError."""
    if not text:
        raise ListError(b"empty :include: filenames not permitted")
    if b"\n" in text:
        raise ListError(b"newlines not permitted in :include: filenames")
    if b"\0" in text:
        raise ListError(b"NUL not permitted in :include: filenames")
    return text if text[:1] in (b"/", b".") else b"./" + text


def lines_of(text: bytes) -> "Iterator[bytes]":
    """The lines of ``text``, each with its newline; the last one may lack it."""
    at = 0
    while at < len(text):
        end = text.find(b"\n", at) + 1 or len(text)
        yield text[at:end]
        at = end


def parse_entries(line: bytes, *, alias: bool = False) -> "list[Entry]":
    """The entries of an entry or a line, last one first, as parse_list has them. Raises ListError.

    ``alias``: what stands before the first colon is the name of an alias, and must be one.
    """
    if any(mark in line for mark in _MARKS):
        from pyqmail.formats.alias_text import canonical, refuse_groups  # most lines are plain addresses

        line = canonical(line)
        if alias:
            refuse_groups(line)
    try:
        return parse_list(line)
    except Unparsable:
        raise ListError(b"unable to parse this line: " + line.rstrip(b"\n")) from None


# :include: and .forward files


def parse_lines(text: bytes) -> "Iterator[tuple[int, list[Entry]]]":
    """The entries of each line that is a list of its own, last one first, and its number. Raises ListError.

    A file that is a filter of Exim's or Sieve begins with a comment that says so, and has no addresses.
    """
    for number, line in enumerate(lines_of(plain_text(text)), 1):
        try:
            if number == 1 and _is_filter(line):
                raise ListError(b"filters are not supported")
            if not line.startswith(b"#"):
                yield number, parse_entries(line)
        except ListError as error:
            error.line = number
            raise


def _is_filter(line: bytes) -> bool:
    words = b" ".join(line.lower().removeprefix(b"#").split())
    return line.startswith(b"#") and words.startswith((b"exim filter", b"sieve filter"))


def parse_include(text: bytes, completion: Completion) -> bytes:
    """The binary list of an :include: file (newinclude(1)). Raises ListError."""
    commands: list[bytes] = []
    for number, entries in parse_lines(text):
        try:
            commands += [_included(kind, entry, completion) + b"\0" for kind, entry in entries if entry or not kind]
        except ListError as error:
            error.line = number
            raise
    return b"".join(commands)


def _included(kind: int, text: bytes, completion: Completion) -> bytes:
    if kind == INCLUDE:
        return _include_name(text)
    if text == NULL_DEVICE:
        return text
    if kind in (PROGRAM, FILE):
        raise ListError((b"program" if kind == PROGRAM else b"file") + b" delivery " + text + b" not supported")
    return _recipient(kind, text, completion)


# /etc/aliases


def logical_lines(text: bytes) -> "Iterator[tuple[int, bytes]]":
    """Each entry of an alias file and the number of its first line; comments are left out.

    An entry is a line with the following ones that are empty or begin with a blank. A comment belongs to it where its
    last line ends with a comma.
    """
    first, entry = 1, list[bytes]()
    for number, line in enumerate(lines_of(text), 1):
        if entry and line.startswith(b"#") and entry[-1].rstrip(b" \t\n").endswith(b","):
            continue
        if entry and line[:1] not in (b" ", b"\t", b"\n"):
            yield first, b"".join(entry)
            first, entry = number, []
        entry.append(line)
    if entry:
        yield first, b"".join(entry)


def parse_aliases(text: bytes, completion: Completion) -> "tuple[list[Record], list[ListError]]":
    """The records of an alias file, in the order of their writing (newaliases(1)), and why entries have none."""
    records: list[Record] = []
    errors: list[ListError] = []
    for number, line in logical_lines(plain_text(text)):
        if not line.startswith(b"#"):
            try:
                records += _alias_records(line, completion)
            except ListError as error:
                error.line = number
                errors.append(error)
    return records, errors


def _alias_records(line: bytes, completion: Completion) -> "list[Record]":
    alias, commands = _instruction(line, completion)
    if alias is None:
        return []
    kind, target = alias
    if target == b"*" or target.startswith(b"*@"):
        raise ListError(b"* stands for nobody: @example.org is all of a host")
    record = (b":" + _key(kind, target), b"".join(command + b"\0" for command in commands))
    if not target.startswith(b"owner-"):
        return [record]
    owner = _alias_recipient(kind, target, completion)[1:]
    return [(b"?" + _key(kind, target.removeprefix(b"owner-")), owner), record]


def _key(kind: int, target: bytes) -> bytes:
    return target.lower() if kind == ADDRESS else target.lower() + b"@"


def _instruction(line: bytes, completion: Completion) -> "tuple[Entry | None, list[bytes]]":
    """The alias of a logical line and its commands; no alias for a line that says nothing. Raises ListError.

    The leftmost address is the alias. Each address is a recipient once another one is found left of it, while programs
    and lists count where they stand; so a program comes before the recipient right of it.
    """
    commands: list[bytes] = []
    last: Entry | None = None
    for kind, text in parse_entries(line, alias=True):
        if kind == INCLUDE:
            commands.append(_include_name(text) + b".bin")
        elif kind == PROGRAM:
            if b"\0" in text:
                raise ListError(b"NUL not permitted in program names")
            commands.append(b"!" + text[1:])
        elif text == NULL_DEVICE:
            commands.append(text)
        elif kind == FILE:
            raise ListError(b"file delivery " + text + b" not supported")
        elif not text:
            raise ListError(b"empty recipient addresses not permitted")
        else:
            if last is not None:
                commands.append(_alias_recipient(*last, completion))
            last = kind, text
            if b"\0" in text:
                raise ListError(b"NUL not permitted in recipient addresses")
    if (last is None) != (not commands):
        raise ListError(b"unable to parse this line: " + line.rstrip(b"\n"))
    return last, commands


def _alias_recipient(kind: int, text: bytes, completion: Completion) -> bytes:
    """An address in an alias file as a command; in ``user@`` the default host is left out. Raises ListError."""
    if kind == ADDRESS and text.endswith(b"@"):
        kind, text = LOCAL, text[:-1]
    return _recipient(kind, text, completion)
