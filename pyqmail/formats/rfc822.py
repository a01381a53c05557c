"""Address fields (RFC 822): text to tokens, tokens to addresses, and back to text. Linear, pure and light.

Lists are read from right to left, which makes them easy: a ``>`` announces an address and a phrase before it, a ``;``
a group. Addresses are therefore found last one first.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Token = tuple[int, bytes]  # kind and unescaped text
    Tokens = list[Token]

ATOM, QUOTED, LITERAL, COMMENT, DOT, AT, COMMA, LEFT, RIGHT, COLON, SEMICOLON = range(11)
LINE_MAX = 78  # columns of a line that two addresses may share

_MARKS: "dict[int, Token]" = {  # one object for each mark of a long list
    text[0]: (kind, text)
    for kind, text in (
        (DOT, b"."),
        (AT, b"@"),
        (COMMA, b","),
        (LEFT, b"<"),
        (RIGHT, b">"),
        (COLON, b":"),
        (SEMICOLON, b";"),
    )
}
BLANKS = frozenset(b" \t\r\n")
_ATOM_ENDS = frozenset(b' \t\r\n([".,<>:;@')
_QUOTE_IN_ATOM = frozenset(bytes(range(32)) + b")]\\" + bytes(range(127, 256)))
_PLAIN_LIST = frozenset(range(32, 127)) - frozenset(b'()":;\\[]') | frozenset(b"\t\n")
_ESCAPED = frozenset(b'"[]()\\\r\n')
_WORDS = (ATOM, QUOTED, LITERAL, COMMENT)
_PHRASE = (COMMENT, ATOM, QUOTED, AT, DOT)
_BRACKETS = {ATOM: (b"", b""), QUOTED: (b'"', b'"'), LITERAL: (b"[", b"]"), COMMENT: (b"(", b")")}
_BACKSLASH = 0x5C
_COMMA = _MARKS[0x2C]


class LexicalError(Exception):
    """The text is not made of tokens: an unbalanced quote, bracket or parenthesis."""


class StructureError(Exception):
    """The tokens are no address list: a ``:`` without ``;``, groups within groups, ``>`` without ``<``."""


class Rules:
    """What completes an address, as tokens (qmail-inject(8), "control files")."""

    def __init__(self, default_host: bytes, default_domain: bytes, plus_domain: bytes) -> None:
        """Raises LexicalError."""
        self.default_host = tokenize(b"@" + default_host)
        self.default_domain = tokenize(b"." + default_domain)
        self.plus_domain = tokenize(b"." + plus_domain)


def tokenize(text: bytes) -> "Tokens":
    """The tokens of ``text``. Raises LexicalError."""
    tokens: Tokens = []
    at, end = 0, len(text)
    while at < end:
        if text[at] in BLANKS:
            at += 1
        else:
            token, at = next_token(text, at)
            tokens.append(token)
    return tokens


def next_token(text: bytes, at: int) -> "tuple[Token, int]":
    """The token that begins at ``at``, where no blank stands, and the place after it. Raises LexicalError."""
    byte = text[at]
    if byte in _MARKS:
        return _MARKS[byte], at + 1
    if byte in b")]":
        raise LexicalError
    if byte == 0x28:
        kind, (content, at) = COMMENT, _comment(text, at + 1)
    elif byte == 0x22:
        kind, (content, at) = QUOTED, _bracketed(text, at + 1, 0x22)
    elif byte == 0x5B:
        kind, (content, at) = LITERAL, _bracketed(text, at + 1, 0x5D)
    else:
        content, at = _atom(text, at)
        kind = ATOM if _QUOTE_IN_ATOM.isdisjoint(content) else QUOTED
    return (kind, bytes(content)), at


def _atom(text: bytes, at: int) -> tuple[bytearray, int]:
    """The atom at ``at`` and the place after it."""
    content = bytearray()
    while at < len(text) and text[at] not in _ATOM_ENDS:
        if text[at] == _BACKSLASH:
            at += 1
            if at == len(text):
                break
        content.append(text[at])
        at += 1
    return content, at


def _bracketed(text: bytes, at: int, close: int) -> tuple[bytearray, int]:
    """The content up to ``close``, and the place after that."""
    content = bytearray()
    while at < len(text):
        byte = text[at]
        at += 1
        if byte == close:
            return content, at
        if byte == _BACKSLASH:
            if at == len(text):
                break
            byte = text[at]
            at += 1
        content.append(byte)
    raise LexicalError


def _comment(text: bytes, at: int) -> tuple[bytearray, int]:
    """The content of a comment and the place after it; comments within it lose their parentheses, as in qmail."""
    content = bytearray()
    depth = 1
    while at < len(text):
        byte = text[at]
        at += 1
        if byte == _BACKSLASH:
            if at == len(text):
                break
            byte = text[at]
            at += 1
        elif byte in b"()":
            depth += 1 if byte == 0x28 else -1
            if depth == 0:
                return content, at
            continue
        content.append(byte)
    raise LexicalError


def is_plain_list(text: bytes) -> bool:
    """Whether ``text`` is only addresses between commas, some in brackets behind a name: most lists are no more."""
    if not _PLAIN_LIST.issuperset(text):
        return False
    brackets = b"<" in text
    return all(_is_plain_item(item.split(), brackets=brackets) for item in text.split(b","))


def _is_plain_item(words: "list[bytes]", *, brackets: bool) -> bool:
    if not words:
        return True
    *name, last = words
    if b"<" not in last and b">" not in last:
        if last[:1] == b"@" or last == b".":
            return False  # nobody's address
        return not name and (not brackets or b"@" in last[1:-1])  # beside brackets a word may be half of a name
    inner = last[1:-1]
    if last[:1] != b"<" or last[-1:] != b">" or not inner or inner[:1] == b"@" or b"<" in inner or b">" in inner:
        return False
    return not any(mark in word for word in name for mark in (b"<", b">", b"@", b"."))


def format_tokens(tokens: "Tokens") -> bytes:
    """``tokens`` as one line or several, without the last newline; lines break after commas."""
    lines: list[bytes] = []
    line = b""
    for number, piece in enumerate(_pieces(tokens)):
        if number and len(line) + len(piece) > LINE_MAX:
            lines.append(line)
            line = b" " + piece
        else:
            line += piece
    return b"\n".join([*lines, line])


def _pieces(tokens: "Tokens") -> list[bytes]:
    """The text of ``tokens``, cut after each comma."""
    pieces: list[bytes] = []
    piece: list[bytes] = []
    last = -1
    for kind, text in tokens:
        if last in (COLON, COMMA) or (last >= 0 and kind == LEFT) or (last in _WORDS and kind in _WORDS):
            piece.append(b" ")
        piece.append(_format_word(kind, text) if kind in _WORDS else text)
        last = kind
        if kind == COMMA:
            pieces.append(b"".join(piece))
            piece = []
    pieces.append(b"".join(piece))  # of a list that ends with a comma the empty rest can still break the line
    return pieces


def _format_word(kind: int, text: bytes) -> bytes:
    opening, closing = _BRACKETS[kind]
    if not _ESCAPED.isdisjoint(text):
        text = b"".join(b"\\%c" % byte if byte in _ESCAPED else b"%c" % byte for byte in text)
    return opening + text + closing


def plain_address(tokens: "Tokens") -> bytes:
    """The address as an envelope has it: no quotes, no comments."""
    parts = []
    for kind, text in tokens:
        if kind == LITERAL:
            parts.append(b"[" + text + b"]")
        elif kind != COMMENT:
            parts.append(text)
    return b"".join(parts)


def complete(address: "Tokens", rules: Rules) -> "Tokens":
    """``address`` with its host made whole; the local part is never touched."""
    if not address or _is_double_bounce(address):
        return address
    address = list(address)
    if address[0][0] == AT:
        colon = next((place for place, token in enumerate(address) if token[0] == COLON), len(address) - 1)
        del address[: colon + 1]
    for kind in (DOT, AT):
        if address and address[-1][0] == kind:
            address.pop()
    if not address:
        return address
    if all(kind != AT for kind, _text in address):
        address += rules.default_host
    kind, text = address[-1]
    if kind == ATOM and text.endswith(b"+"):
        address[-1] = (ATOM, text[:-1])
        address += rules.plus_domain
    if not _host_is_whole(address):
        address += rules.default_domain
    return address


def _is_double_bounce(address: "Tokens") -> bool:
    return len(address) >= 2 and address[-1] == (LITERAL, b"") and address[-2][0] == AT


def _host_is_whole(address: "Tokens") -> bool:
    """Whether a dot or a literal stands after the last ``@``."""
    for kind, _text in reversed(address):
        if kind in (DOT, LITERAL):
            return True
        if kind == AT:
            return False
    return True


def rewrite_list(tokens: "Tokens", rewrite: "Callable[[Tokens], Tokens]") -> "Tokens":
    """An address list with ``rewrite`` applied to each address, last one first, and missing commas put in.

    Raises StructureError, after ``rewrite`` has seen the addresses right of the fault.
    """
    return _List(tokens, rewrite).run()


class _List:
    """The state of one reading: ``left`` is still to be read, ``out`` is the result reversed."""

    def __init__(self, tokens: "Tokens", rewrite: "Callable[[Tokens], Tokens]") -> None:
        self.left = list(tokens)
        self.rewrite = rewrite
        self.out: Tokens = []
        self.address: Tokens = []  # reversed
        self.group = False
        self.after_word = False  # another word would be another address

    def run(self) -> "Tokens":
        while self.left:
            self._step(self.left[-1][0])
        self._flush()
        self.out.reverse()  # a ';' without ':' is let through
        return self.out

    def _step(self, kind: int) -> None:
        """Read the last token, and what belongs to it."""
        if kind in (ATOM, QUOTED, LITERAL):
            if self.after_word:
                self._flush_comma()
            self.after_word = True
            self.address.append(self.left.pop())
        elif kind == COMMENT:
            self.out.append(self.left.pop())
        elif kind == COMMA:
            self._flush()
            self.after_word = False
            self.out.append(self.left.pop())
        elif kind == RIGHT:
            self._angle()
        elif kind == SEMICOLON:
            self._open_group()
        elif kind == COLON:
            self._group_name()
        else:
            self.after_word = False
            self.address.append(self.left.pop())

    def _angle(self) -> None:
        self._flush_comma()
        self.out.append(self.left.pop())
        while self.left and self.left[-1][0] != LEFT:
            self.address.append(self.left.pop())
        self._got()  # the empty address of <> as well
        if not self.left:
            raise StructureError
        self.out.append(self.left.pop())
        while self.left and self.left[-1][0] in _PHRASE:
            self.out.append(self.left.pop())
        self.after_word = False

    def _open_group(self) -> None:
        self._flush_comma()
        if self.group:
            raise StructureError
        self.group = True
        self.after_word = False
        self.out.append(self.left.pop())

    def _group_name(self) -> None:
        self._flush()
        if not self.group:
            raise StructureError
        self.group = False
        while self.left and self.left[-1][0] != COMMA:
            self.out.append(self.left.pop())
        if self.left:
            self.out.append(self.left.pop())
        self.after_word = False

    def _got(self) -> None:
        self.address.reverse()
        self.out.extend(reversed(self.rewrite(self.address)))
        self.address = []

    def _flush(self) -> None:
        if self.address:
            self._got()

    def _flush_comma(self) -> None:
        if self.address:
            self._got()
            self.out.append(_COMMA)
