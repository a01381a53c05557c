"""One item of an address list, what stands between two commas: which addresses are in it, and is it well formed?

The tokens of an item are read from left to right; a part in angle brackets is the address, whatever is around it.
"""

from pyqmail.formats import rfc822
from pyqmail.formats.rfc822 import AT, ATOM, COLON, COMMA, COMMENT, DOT, LITERAL, QUOTED, RIGHT, SEMICOLON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Token: TypeAlias = tuple[int, bytes, int, int]  # kind, unescaped text, and where it stands
    Part: TypeAlias = "Token | Brackets"

JUNK, ODD = 11, 12  # a byte that makes no token; an atom that RFC 822 would not let pass: 8-bit, control, backslash
_WORDS = (ATOM, QUOTED, LITERAL, ODD)


class Address:
    """One address: its tokens, without comments, and where they stand.

    ``angle``: it stands in brackets. ``in_name``: it is what precedes a comma in ``Doe, John <john@host>``, and may be
    half of a name.
    """

    __slots__ = ("angle", "end", "in_name", "start", "tokens")

    def __init__(self, tokens: "Sequence[Token]", *, angle: bool = False) -> None:
        self.tokens = [(kind if kind != ODD else QUOTED, text) for kind, text, _start, _end in tokens]
        self.start = tokens[0][2] if tokens else 0
        self.end = tokens[-1][3] if tokens else 0
        self.angle = angle
        self.in_name = False

    @property
    def text(self) -> bytes:
        """The address as an envelope has it."""
        return rfc822.plain_address(self.tokens).partition(b"\0")[0]  # the rest would be a forged record


class Brackets:
    """The tokens between ``<`` and ``>``; not ``ended`` if the ``>`` is missing."""

    __slots__ = ("ended", "tokens")

    def __init__(self, tokens: "list[Token]", *, ended: bool) -> None:
        self.tokens = tokens
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
        self.named = False  # it has brackets with something in front
        self.start = start
        self.end = end


def edge(part: "Part", which: int, text: bytes) -> int:
    """Where ``part`` begins (0) or ends (-1), its brackets included."""
    if not isinstance(part, Brackets):
        return part[2] if which == 0 else part[3]
    if not part.tokens:
        return 0 if which == 0 else len(text)
    if which == 0:
        return text.rfind(b"<", 0, part.tokens[0][2] + 1)
    return part.tokens[-1][3] + (1 if part.ended else 0)


def read_item(parts: "Sequence[Part]", item: Item) -> Item:
    """``item`` with what ``parts``, at least one, say."""
    places = [place for place, part in enumerate(parts) if isinstance(part, Brackets)]
    if not places:
        _read_words([part for part in parts if not isinstance(part, Brackets)], item)
        return item
    kinds = [JUNK if isinstance(part, Brackets) else part[0] for part in parts[: places[0]]]
    item.named = bool(kinds)
    # a name with dots would lose the blanks behind them
    item.clean = len(places) == 1 and all(kind in (ATOM, QUOTED, COMMENT) for kind in kinds)
    for part in parts:
        if isinstance(part, Brackets):
            _read_brackets(part, item)
    after = [part for part in parts[places[-1] + 1 :] if not isinstance(part, Brackets)]
    if any(token[0] != COMMENT for token in after):
        item.clean = False
        item.addresses += [address for address in _addresses(after) if has_host(address)]
    return item


def _read_words(tokens: "Sequence[Token]", item: Item) -> None:
    """An item without brackets: an address, several without commas, or words around one."""
    addresses = _addresses(tokens)
    whole = [address for address in addresses if has_host(address)]
    if len(tokens) > 2 and tokens[0][1].lower() == b"mailto" and tokens[1][0] == COLON:
        addresses = addresses[1:]
    odd = any(kind in (JUNK, COLON, RIGHT) for kind, _text, _start, _end in tokens)
    item.clean = not any(kind == ODD for kind, _text, _start, _end in tokens)
    if odd or (whole and len(whole) < len(addresses)):
        item.clean = False
        item.left_out = len(whole) < len(addresses) or not whole
        item.addresses = whole
    else:
        item.addresses = addresses
        item.words = len(addresses) > 1 and not whole


def _read_brackets(brackets: Brackets, item: Item) -> None:
    """What stands in brackets: an address or none, a route with one, or what people put there by mistake."""
    tokens = [token for token in brackets.tokens if token[0] != COMMENT]
    item.clean = item.clean and brackets.ended
    colons = [place for place, token in enumerate(tokens) if token[0] == COLON]
    if tokens and tokens[0][0] == AT:
        item.clean = item.clean and len(colons) == 1
        tokens = tokens[colons[-1] + 1 :] if colons else []
    elif colons and tokens[0][1].lower() == b"mailto":
        item.clean = False
        tokens = tokens[2:]
    if not tokens:
        item.addresses.append(Address([], angle=True))
        return
    addresses = _addresses(tokens)
    if len(addresses) > 1 or any(token[0] in (COLON, COMMA, SEMICOLON, JUNK) for token in tokens):
        item.clean = False
        addresses = [address for address in addresses if has_host(address)] or addresses
    for address in addresses:
        address.angle = True
    item.addresses += addresses


def _addresses(tokens: "Sequence[Token]") -> list[Address]:
    """What may be addresses among ``tokens``: each ends where a word follows a word."""
    chunks: list[list[Token]] = [[]]
    for token in tokens:
        kind = token[0]
        if kind == COMMENT:
            continue
        if kind not in (*_WORDS, DOT, AT):
            chunks.append([])
        elif kind in _WORDS and chunks[-1] and chunks[-1][-1][0] in _WORDS:
            chunks.append([token])
        else:
            chunks[-1].append(token)
    return [Address(chunk) for chunk in chunks if chunk]


def has_host(address: Address) -> bool:
    """Whether there is something on both sides of an ``@``."""
    kinds = [kind for kind, _text in address.tokens]
    return AT in kinds[1:-1]
