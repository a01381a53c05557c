"""Address lists as people and programs write them, read without a wrong turn (addresses(5), qmail-header(5)).

rfc822 reads what is well formed and writes it anew. This is the reading for everything else: from left to right, it
raises nothing, takes what stands in angle brackets whatever is around it, and says whether the list was clean. A list
that is not clean is only read: it stays as it was written. Pure and light.
"""

from pyqmail.formats import rfc822
from pyqmail.formats.address_item import JUNK, ODD, Brackets, Item, read_item
from pyqmail.formats.rfc822 import AT, ATOM, COLON, COMMA, COMMENT, DOT, LEFT, LITERAL, QUOTED, RIGHT, SEMICOLON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyqmail.formats.address_item import Address, Part, Token

FAULTS_MAX = 16  # so many quotes and parentheses without their ends are looked for; all later ones are junk
_SPECIAL = frozenset(b'<>(),;:"\\\r\n')


class Reading:
    """The items of a list in order.

    ``sure``: there is no doubt what they say. ``clean``: and written anew it would say the same.
    """

    __slots__ = ("clean", "items", "sure")

    def __init__(self, items: "list[Item]", *, sure: bool, kept: bool) -> None:
        self.items = items
        self.sure = sure and all(item.clean for item in items)
        self.clean = self.sure and kept

    @property
    def addresses(self) -> "list[Address]":
        """All addresses in order."""
        return [address for item in self.items for address in item.addresses]


def read_list(text: bytes) -> Reading:
    """What ``text`` says, the body of a field or a word of a command line."""
    splitter = _Splitter(text)
    items, sure = splitter.run()
    brackets = splitter.junk or any(address.angle for item in items for address in item.addresses)
    for place, item in enumerate(items):
        following = items[place + 1] if place + 1 < len(items) else None
        if brackets and _is_half(item, before_name=following is not None and following.named, junk=splitter.junk):
            sure = False
    return Reading(items, sure=sure, kept=splitter.kept)


def _is_half(item: Item, *, before_name: bool, junk: bool) -> bool:
    """Whether ``item``, in a list where others stand in brackets or a quote has no end, may be half a name.

    Several words, a word that is no atom, and any beside a quote without its end are then nobody's address.
    """
    if item.words:
        item.addresses, item.left_out = [], True
        return True
    if len(item.addresses) != 1 or item.addresses[0].angle or item.addresses[0].host:
        return False
    if junk or not item.clean:  # Müller, Hans <hans@host>
        item.addresses, item.left_out = [], True
    elif before_name:
        item.addresses[0].in_name = True
    return junk or before_name or not item.clean


def complete_list(text: bytes, rules: rfc822.Rules) -> bytes:
    """``text`` as it is, but for hosts: those that addresses in brackets lack, or where there is no doubt any."""
    out = []
    at = 0
    reading = read_list(text)
    for address in sorted(reading.addresses, key=lambda address: address.start):
        if address.raw and (address.angle or reading.sure):
            tokens = address.tokens
            whole = rfc822.complete(tokens, rules)
            if whole[: len(tokens)] == tokens:
                end = address.start + len(address.raw)
                out += [text[at:end], rfc822.format_tokens(whole[len(tokens) :])]
                at = end
    return b"".join([*out, text[at:]])


def parse_addresses(text: bytes) -> list[bytes]:
    """The envelope addresses in a word of a command line or a line of a .qmail file; none in ``<>`` or empty text.

    ``a, b``, ``Name <a>``, ``a (Name)`` and ``"local part"@host`` are read as in a header. What is no such list, as
    ``first last@host``, is one address as it stands.
    """
    text = text.partition(b"\0")[0].strip(b" \t\r\n")  # the rest would be a forged record of the envelope
    if _SPECIAL.isdisjoint(text):
        words = text.split()
        if len(words) > 1 and (all(b"@" in word[1:-1] for word in words) or _are_users(words)):
            return words
        return [text] if text else []
    found: list[bytes] = []
    items = read_list(text).items
    raws = [text[item.start : item.end] for item in items]
    route = False
    for item, raw in reversed(list(zip(items, raws, strict=True))):
        route = raw.startswith(b"@") and (b":" in raw or route)
        if b":" in raw or not route:  # of @one,@two:joe@host the first is no address
            found += reversed(_arguments(item, raw, brackets=b"<" in text))
    found.reverse()
    return [address for address in found if address]


def _are_users(words: list[bytes]) -> bool:
    """Whether ``words``, without commas between them, are users: no host anywhere, and no capitals as names have."""
    return all(b"@" not in word and not word[:1].isupper() for word in words)


def _arguments(item: Item, raw: bytes, *, brackets: bool) -> list[bytes]:
    """The addresses in ``item``, which is ``raw``: as in a header, unless that would lose a part of it."""
    if b"\\" in raw and b'"' not in raw and b"<" not in raw:
        return [raw.removeprefix(b"\\")]  # sendmail's \joe; in DOMAIN\joe the backslash counts
    found = [address.text for address in item.addresses]
    if any(address.angle for address in item.addresses):
        return found
    if item.left_out or item.words or any(address.startswith(b"@") for address in found):
        if raw[:1] == b"<" and raw[-1:] == b">":
            return [raw[1:-1]]
        return [raw] if b"@" in raw or not brackets else []  # beside brackets it is the half of a name
    return found


def parse_sender(text: bytes) -> bytes:
    """The envelope sender in a word of a command line: the first address of it, or none."""
    return next(iter(parse_addresses(text)), b"")


class _Splitter:
    """One reading from left to right: tokens one after another, and an item for what stands between two commas."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.clean = True
        self.last_semicolon = text.rfind(b";")
        self.items: list[Item] = []
        self.parts: list[Part] = []  # of the item at hand
        self.kept = True
        self.junk = False
        self.group = False
        self.colon = False  # in the item at hand stands one that opens no group

    def _tokens(self) -> "Iterator[Token]":
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
                self.junk = True
                at += 1
                kind, content = JUNK, b""
                while faults > FAULTS_MAX and text[at : at + 1] == text[start : start + 1]:
                    at += 1
            yield self._kind(kind, content, text[start:at]), start, at

    def _kind(self, kind: int, content: bytes, raw: bytes) -> int:
        """``kind``, or ODD; notes what could not be written back as it was."""
        if kind in (ATOM, QUOTED) and not raw.startswith(b'"') and (kind == QUOTED or raw != content):
            self.clean = False
            return ODD
        if kind == JUNK:
            self.clean = False
        elif kind in (QUOTED, COMMENT, LITERAL) and not {10, 13}.isdisjoint(content):
            self.kept = False  # a line break would get a backslash
        elif kind == COMMENT and b"\\" not in raw and raw.count(b"(") > 1:
            self.kept = False  # a comment within it would lose its parentheses
        return kind

    def run(self) -> "tuple[list[Item], bool]":
        tokens = self._tokens()
        token = next(tokens, None)
        while token is not None:
            if token[0] == LEFT:
                token = self._brackets(token, tokens)
                continue
            self._step(token)
            token = next(tokens, None)
        self._close()
        return self.items, self.clean and not self.group

    def _step(self, token: "Token") -> None:
        """Take a token outside of brackets."""
        kind = token[0]
        if kind == COLON and self._opens_group(token[1]):
            self.group = True
            self.parts = []
        elif kind in (COMMA, SEMICOLON):
            self._close()
            self.clean = self.clean and (kind == COMMA or self.group)
            self.group = self.group and kind == COMMA
        else:
            self.parts.append(token)
            self.colon = self.colon or kind == COLON

    def _brackets(self, left: "Token", tokens: "Iterator[Token]") -> "Token | None":
        """Take what follows a ``<`` up to its ``>``, or else up to the end of the item; the token after that."""
        inside: list[Token] = []
        following = next(tokens, None)
        while following is not None and following[0] not in (LEFT, RIGHT):
            inside.append(following)
            following = next(tokens, None)
        if following is not None and following[0] == RIGHT:
            self.parts.append(Brackets(inside, left[1], following[2], ended=True))
            return next(tokens, None)
        self.clean = False
        count = next((place for place, token in enumerate(inside) if token[0] in (COMMA, SEMICOLON)), len(inside))
        host = any(token[0] == AT for token in inside[:count])
        if count and (host or count < len(inside) or following is None):  # in <Bob <bob@host>> the inner ones count
            self.parts.append(Brackets(inside[:count], left[1], inside[count - 1][2], ended=False))
            inside = inside[count:]
        for token in inside:
            self._step(token)
        return following

    def _opens_group(self, at: int) -> bool:
        """Whether the item before the colon at ``at`` is the name of a group: words only, and a ``;`` comes."""
        if self.group or self.colon or at > self.last_semicolon:
            return False
        return not any(
            isinstance(part, Brackets) or part[0] not in (ATOM, QUOTED, COMMENT, DOT, ODD) for part in self.parts
        )

    def _close(self) -> None:
        """The item is whole."""
        if self.parts:
            self.items.append(read_item(self.parts, self.text))
            self.parts = []
        self.colon = False
