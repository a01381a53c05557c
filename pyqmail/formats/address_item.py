"""One item of an address list, what stands between two commas: which addresses are in it, and is it well formed?

The tokens of an item are read from left to right; a part in angle brackets is the address, whatever is around it.
"""

from pyqmail.formats import rfc822
from pyqmail.formats.rfc822 import AT, ATOM, COLON, COMMA, COMMENT, DOT, LITERAL, QUOTED, RIGHT, SEMICOLON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Token: TypeAlias = tuple[int, int, int]  # kind, and where it stands in the list
    Part: TypeAlias = "Token | Brackets"

JUNK, ODD = 11, 12  # a byte that makes no token; an atom that RFC 822 would not let pass: 8-bit, control, backslash
_WORDS = (ATOM, QUOTED, LITERAL, ODD)
_HOST = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")
_SPECIALS = frozenset(b'()<>@,;:\\"[]' + bytes(range(33)) + bytes(range(127, 256)))


class Address:
    """One address as it is written, ``raw``, and where.

    ``angle``: it stands in brackets. ``host``: there is something on both sides of an ``@``. ``in_name``: it is what
    precedes a comma in ``Doe, John <john@host>``, and may be half of a name.
    """

    __slots__ = ("angle", "host", "in_name", "raw", "start")

    def __init__(self, raw: bytes, start: int, *, host: bool, angle: bool = False) -> None:
        self.raw = raw
        self.start = start
        self.host = host
        self.angle = angle
        self.in_name = False

    @property
    def tokens(self) -> "rfc822.Tokens":
        """Its tokens, without comments."""
        return [token for token in rfc822.tokenize(self.raw) if token[0] != COMMENT]

    @property
    def text(self) -> bytes:
        """The address as an envelope has it."""
        return rfc822.plain_address(self.tokens).partition(b"\0")[0]  # the rest would be a forged record


class Brackets:
    """The tokens between ``<`` and ``>``, and where those stand; not ``ended`` if the ``>`` is missing."""

    __slots__ = ("end", "ended", "start", "tokens")

    def __init__(self, tokens: "list[Token]", start: int, end: int, *, ended: bool) -> None:
        self.tokens = tokens
        self.start = start
        self.end = end
        self.ended = ended


class Item:
    """What stands between two commas. ``clean``: it is what RFC 822 lets stand there, or words without commas.

    ``words``: it is several words and none is an address, so that it may be a name as well as a list of users.
    ``left_out``: words stand there that belong to no address.
    """

    __slots__ = ("addresses", "clean", "end", "left_out", "named", "start", "words")

    def __init__(self, start: int, end: int) -> None:
        self.addresses: list[Address] = []
        self.clean = True
        self.words = False
        self.left_out = False
        self.named = False  # it has a name in front of brackets, or is one
        self.start = start
        self.end = end


def edge(part: "Part", which: int) -> int:
    """Where ``part`` begins (0) or ends (-1), its brackets included."""
    if isinstance(part, Brackets):
        return part.start if which == 0 else part.end
    return part[1] if which == 0 else part[2]


def read_item(parts: "Sequence[Part]", text: bytes) -> Item:
    """What ``parts`` of ``text``, at least one, say."""
    item = Item(edge(parts[0], 0), edge(parts[-1], -1))
    places = [place for place, part in enumerate(parts) if isinstance(part, Brackets)]
    if not places:
        _read_words([part for part in parts if not isinstance(part, Brackets)], item, text)
        return item
    kinds = [JUNK if isinstance(part, Brackets) else part[0] for part in parts[: places[0]]]
    item.named = bool(kinds)
    # a name with dots would lose the blanks behind them
    item.clean = len(places) == 1 and all(kind in (ATOM, QUOTED, COMMENT) for kind in kinds)
    for part in parts:
        if isinstance(part, Brackets):
            _read_brackets(part, item, text)
    after = [part for part in parts[places[-1] + 1 :] if not isinstance(part, Brackets)]
    if any(token[0] != COMMENT for token in after):
        item.clean = False
        item.addresses += [address for address in _addresses(after, text) if address.host]
    return item


def _read_words(tokens: "Sequence[Token]", item: Item, text: bytes) -> None:
    """An item without brackets: an address, several without commas, or words around one."""
    route = tokens[0][0] == AT and any(token[0] == COLON for token in tokens)
    if route:  # @relay:john@host, whose brackets are missing
        tokens = tokens[1 + max(place for place, token in enumerate(tokens) if token[0] == COLON) :]
    addresses = _addresses(tokens, text)
    if len(addresses) == 1 and _is_quoted_whole(addresses[0]):
        item.clean, item.addresses = False, [_unquoted(addresses[0])]
        return
    whole = [address for address in addresses if address.host and not _is_hostless(address)]
    if _is_mailto(tokens, text):
        addresses = addresses[1:]
    odd = route or any(token[0] in (JUNK, COLON, RIGHT) for token in tokens)
    odd = odd or any(_is_hostless(address) for address in addresses)
    item.clean = not any(token[0] == ODD for token in tokens)
    if odd or (whole and len(whole) < len(addresses)):
        item.clean = False
        item.left_out = len(whole) < len(addresses) or not whole
        item.addresses = whole
    else:
        item.addresses = addresses
        item.words = len(addresses) > 1 and not whole
        item.named = item.words and any(address.raw[:1].isupper() for address in addresses)
        if item.named:  # Bob Roe; in lower case they are users, and commas are missing
            item.clean, item.left_out, item.addresses = False, True, []


def _is_mailto(tokens: "Sequence[Token]", text: bytes) -> bool:
    return len(tokens) > 2 and tokens[1][0] == COLON and text[tokens[0][1] : tokens[0][2]].lower() == b"mailto"


def _is_hostless(address: Address) -> bool:
    """Whether it is ``@host`` or a dot, which made whole would be empty; ``@[]`` is that of double bounces."""
    return (address.raw.startswith(b"@") and address.raw != b"@[]") or address.raw == b"."


def _is_quoted_whole(address: Address) -> bool:
    """Whether it is ``"john@example.org"``: a whole address that somebody has put in quotes."""
    local, _at, host = address.raw[1:-1].rpartition(b"@")
    if address.raw[:1] != b'"' or address.raw[-1:] != b'"' or b"." not in host or not _HOST.issuperset(host):
        return False
    return bool(local) and _SPECIALS.isdisjoint(local)


def _unquoted(address: Address) -> Address:
    return Address(address.raw[1:-1], address.start + 1, host=True, angle=address.angle)


def _read_brackets(brackets: Brackets, item: Item, text: bytes) -> None:
    """What stands in brackets: an address or none, a route with one, or what people put there by mistake."""
    tokens = [token for token in brackets.tokens if token[0] != COMMENT]
    item.clean = item.clean and brackets.ended
    if tokens and tokens[0][0] == AT:
        colons = [place for place, token in enumerate(tokens) if token[0] == COLON]
        item.clean = item.clean and len(colons) == 1
        tokens = tokens[colons[-1] + 1 :] if colons else []
    elif _is_mailto(tokens, text):
        item.clean = False
        tokens = tokens[2:]
    if not tokens:
        item.addresses.append(Address(b"", brackets.start, host=False, angle=True))
        return
    addresses = _addresses(tokens, text)
    if len(addresses) == 1 and _is_quoted_whole(addresses[0]):
        item.clean, addresses = False, [_unquoted(addresses[0])]
    whole = [address for address in addresses if address.host]
    if any(token[0] in (COLON, COMMA, SEMICOLON, JUNK) for token in tokens):
        item.clean = False
        addresses = whole or addresses
    elif len(addresses) > 1:  # two addresses; but <first last@host> may be anybody
        item.clean = False
        item.left_out = brackets.ended and len(whole) < len(addresses)
        addresses = [] if item.left_out else whole
    for address in addresses:
        address.angle = True
    item.addresses += addresses


def _addresses(tokens: "Sequence[Token]", text: bytes) -> list[Address]:
    """What may be addresses among ``tokens``: each ends where a word follows a word."""
    found: list[Address] = []
    chunk: list[Token] = []
    for token in tokens:
        kind = token[0]
        if kind == COMMENT:
            continue
        part = kind in _WORDS or kind in (DOT, AT)
        if chunk and (not part or (kind in _WORDS and chunk[-1][0] in _WORDS)):
            found.append(_address(chunk, text))
            chunk = []
        if part:
            chunk.append(token)
    return [*found, _address(chunk, text)] if chunk else found


def _address(tokens: "Sequence[Token]", text: bytes) -> Address:
    start, end = tokens[0][1], tokens[-1][2]
    return Address(text[start:end], start, host=any(token[0] == AT for token in tokens[1:-1]))
