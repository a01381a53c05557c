"""Address lists as people and programs write them, read without a wrong turn (addresses(5), qmail-header(5)).

rfc822 reads what is well formed and writes it anew. This is the reading for everything else: from left to right, it
raises nothing, takes what stands in angle brackets whatever is around it, and says whether the list was clean. A list
that is not clean is only read: it stays as it was written. Pure and light.
"""

from pyqmail.formats import rfc822
from pyqmail.formats.address_item import JUNK, ODD, Brackets, Item, edge, has_host, read_item
from pyqmail.formats.rfc822 import ATOM, COLON, COMMA, COMMENT, DOT, LEFT, LITERAL, QUOTED, RIGHT, SEMICOLON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.formats.address_item import Address, Part, Token

FAULTS_MAX = 16  # so many quotes and parentheses without their ends are looked for; all later ones are junk
_SPECIAL = frozenset(b'<>(),;:"\\\r\n')


class Reading:
    """The items of a list in order, and whether it was clean all through."""

    __slots__ = ("clean", "items")

    def __init__(self, items: "list[Item]", *, clean: bool) -> None:
        self.items = items
        self.clean = clean and all(item.clean for item in items)

    @property
    def addresses(self) -> "list[Address]":
        """All addresses in order."""
        return [address for item in self.items for address in item.addresses]


def read_list(text: bytes) -> Reading:
    """What ``text`` says, the body of a field or a word of a command line."""
    items, clean = _Splitter(text).run()
    brackets = any(address.angle for item in items for address in item.addresses)
    for place, item in enumerate(items):
        following = items[place + 1] if place + 1 < len(items) else None
        if brackets and _settle(item, before_name=following is not None and following.named):
            clean = False
    return Reading(items, clean=clean)


def _settle(item: Item, *, before_name: bool) -> bool:
    """Judge words without a host in a list where others stand in brackets; true if they are no clean item there."""
    if item.words:
        item.addresses, item.left_out = [], True
        return True
    if len(item.addresses) != 1 or item.addresses[0].angle or has_host(item.addresses[0]):
        return False
    if not item.clean:  # Müller, Hans <hans@host>
        item.addresses, item.left_out = [], True
    elif before_name:
        item.addresses[0].in_name = True
    return before_name or not item.clean


def complete_list(text: bytes, reading: Reading, rules: rfc822.Rules) -> bytes:
    """``text`` as it is, but for the hosts that addresses found in it lack."""
    out = []
    at = 0
    for address in sorted(reading.addresses, key=lambda address: address.start):
        whole = rfc822.complete(address.tokens, rules)
        count = len(address.tokens)
        if not whole or address.in_name or whole == address.tokens:
            continue
        if whole[:count] == address.tokens:
            out += [text[at : address.end], rfc822.format_tokens(whole[count:])]
        else:
            out += [text[at : address.start], rfc822.format_tokens(whole)]
        at = address.end
    return b"".join([*out, text[at:]])


def parse_addresses(text: bytes) -> list[bytes]:
    """The envelope addresses in a word of a command line or a line of a .qmail file; none in ``<>`` or empty text.

    ``a, b``, ``Name <a>``, ``a (Name)`` and ``"local part"@host`` are read as in a header. What is no such list, as
    ``first last@host``, is one address as it stands.
    """
    text = text.partition(b"\0")[0].strip(b" \t\r\n")  # the rest would be a forged record of the envelope
    if _SPECIAL.isdisjoint(text):
        words = text.split()
        if len(words) > 1 and all(b"@" in word[1:-1] for word in words):
            return words
        return [text] if text else []
    found: list[bytes] = []
    for item in read_list(text).items:
        found += _arguments(item, text[item.start : item.end], brackets=b"<" in text)
    return [address for address in found if address]


def _arguments(item: Item, raw: bytes, *, brackets: bool) -> list[bytes]:
    """The addresses in ``item``, which is ``raw``: as in a header, unless that would lose a part of it."""
    if b"\\" in raw and b'"' not in raw and b"<" not in raw:
        return [raw.removeprefix(b"\\")]  # sendmail's \joe; in DOMAIN\joe the backslash counts
    found = [address.text for address in item.addresses]
    if any(address.angle for address in item.addresses):
        return found
    if item.left_out or item.words or any(address.startswith(b"@") for address in found):
        return [raw] if b"@" in raw or not brackets else []  # beside brackets it is the half of a name
    return found


def parse_sender(text: bytes) -> bytes:
    """The envelope sender in a word of a command line: the first address of it, or none."""
    return next(iter(parse_addresses(text)), b"")


class _Splitter:
    """One reading from left to right: tokens, then items."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.clean = True
        self.tokens = self._tokens()
        semicolons = [place for place, token in enumerate(self.tokens) if token[0] == SEMICOLON]
        self.last_semicolon = semicolons[-1] if semicolons else -1
        self.items: list[Item] = []
        self.parts: list[Part] = []  # of the item at hand
        self.group = False
        self.colon = False  # in the item at hand stands one that opens no group

    def _tokens(self) -> "list[Token]":
        tokens: list[Token] = []
        at, faults, text = 0, 0, self.text
        while at < len(text):
            start = at
            if text[at] in rfc822.BLANKS:
                at += 1
                continue
            try:
                if faults > FAULTS_MAX and text[at] in b'("[':
                    raise rfc822.LexicalError
                (kind, content), at = rfc822.next_token(text, at)
            except rfc822.LexicalError:
                faults += 1
                at += 1
                kind, content = JUNK, text[start:at]
            tokens.append((self._kind(kind, content, text[start:at]), content, start, at))
        return tokens

    def _kind(self, kind: int, content: bytes, raw: bytes) -> int:
        """``kind``, or ODD; notes what could not be written back as it was."""
        if kind in (ATOM, QUOTED) and not raw.startswith(b'"') and (kind == QUOTED or raw != content):
            self.clean = False
            return ODD
        if kind == JUNK or (kind in (QUOTED, COMMENT, LITERAL) and not {10, 13}.isdisjoint(content)):
            self.clean = False  # a line break would get a backslash
        elif kind == COMMENT and b"\\" not in raw and raw.count(b"(") > 1:
            self.clean = False  # a comment within it would lose its parentheses
        return kind

    def run(self) -> "tuple[list[Item], bool]":
        place = 0
        while place < len(self.tokens):
            token = self.tokens[place]
            kind = token[0]
            place += 1
            if kind == LEFT:
                place = self._brackets(place)
            elif kind == COLON and self._opens_group(place - 1):
                self.group = True
                self.parts = []
            elif kind in (COMMA, SEMICOLON):
                self._close()
                self.clean = self.clean and (kind == COMMA or self.group)
                self.group = self.group and kind == COMMA
            else:
                self.parts.append(token)
                self.colon = self.colon or kind == COLON
        self._close()
        return self.items, self.clean and not self.group

    def _brackets(self, place: int) -> int:
        """Take what follows a ``<``, up to its ``>``; without one up to what ends the item. The place after that."""
        tokens = self.tokens
        end = place
        while end < len(tokens) and tokens[end][0] not in (LEFT, RIGHT):
            end += 1
        if end == place and end < len(tokens) and tokens[end][0] == LEFT:
            self.clean = False  # two in a row
            return place
        if end < len(tokens) and tokens[end][0] == RIGHT:
            self.parts.append(Brackets(tokens[place:end], ended=True))
            return end + 1
        end = next((other for other in range(place, end) if tokens[other][0] in (COMMA, SEMICOLON)), end)
        self.parts.append(Brackets(tokens[place:end], ended=False))
        return end

    def _opens_group(self, place: int) -> bool:
        """Whether the item before the colon at ``place`` is the name of a group: words only, and a ``;`` comes."""
        if self.group or self.colon or place > self.last_semicolon:
            return False
        return not any(
            isinstance(part, Brackets) or part[0] not in (ATOM, QUOTED, COMMENT, DOT, ODD) for part in self.parts
        )

    def _close(self) -> None:
        """The item is whole."""
        if self.parts:
            first, last = self.parts[0], self.parts[-1]
            start = edge(first, 0, self.text)
            self.items.append(read_item(self.parts, Item(start, edge(last, -1, self.text))))
            self.parts = []
        self.colon = False
