"""What stands in sendmail's address files and is no address: commands, :words:, comments (aliases(5)).

Such files quote a command in two ways, ``"|command"`` and ``|"command"``; formats/aliases reads the first.
Pure and light.
"""

from pyqmail.formats import rfc822
from pyqmail.formats.aliases import ListError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

UNQUOTED = b"quote the whole command: "
_BLANKS = b" \t\r\n"
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_")


def canonical(text: bytes) -> bytes:
    """``text``, an entry of one line or several, as formats/aliases reads it. Raises ListError.

    Comments behind blanks are gone, ``\\`` before a line end is a blank, ``|"command"`` has its bar inside, and so has
    ``":include:/path"`` its word outside. Other text stays as it is. A command whose words are not quoted, and words
    between colons other than include, cannot be honoured.
    """
    return _Rewriting(text).run()


class _Rewriting:
    """One pass over the text; ``out`` is what was rewritten."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0
        self.out = bytearray()
        self.begins = True  # whether an item may begin here
        self.angle = False

    def run(self) -> bytes:
        while self.at < len(self.text):
            byte = self.text[self.at]
            if byte == 0x5C:
                self._backslash()
            elif byte == 0x22:
                self._quoted()
            elif byte == 0x28:
                self._copy(self._comment_end())
            elif byte == 0x23 and self._after_blank():
                end = self.text.find(b"\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif byte == 0x7C and (self.begins or self._after_blank()):
                self._command()
            elif byte == 0x3A and not self.angle:
                self._colon()
            else:
                self._other(byte)
        return bytes(self.out)

    def _copy(self, end: int) -> None:
        self.out += self.text[self.at : end]
        self.at = end

    def _other(self, byte: int) -> None:
        if byte in b"<>":
            self.angle = byte == 0x3C
        if byte not in _BLANKS:
            if self.begins and self.text[self.at : self.at + 6].lower() == b"error:":
                raise ListError(b"error: is not supported")
            self.begins = byte == 0x2C
        self._copy(self.at + 1)

    def _after_blank(self) -> bool:
        return self.at == 0 or self.text[self.at - 1] in _BLANKS

    def _backslash(self) -> None:
        if self.text[self.at + 1 : self.at + 2] == b"\n":
            self.out += b" "
            self.at += 2
        else:
            self.begins = False
            self._copy(min(self.at + 2, len(self.text)))

    def _quote_end(self, at: int) -> int:
        """The place after the quoted string at ``at``; -1 if it does not end."""
        at += 1
        while at < len(self.text):
            if self.text[at] == 0x22:
                return at + 1
            at += 2 if self.text[at] == 0x5C else 1
        return -1

    def _quoted(self) -> None:
        end = self._quote_end(self.at)
        content = self.text[self.at + 1 : end - 1]
        if self.begins and end > 0 and content[:1] == b":":
            word, name = _colon_word(content)
            self.out += b":" + word + b":" + (name if name.startswith(b'"') else b'"' + name + b'"')
            self.at = end
        else:
            self._copy(len(self.text) if end < 0 else end)
        self.begins = False

    def _comment_end(self) -> int:
        depth, at = 0, self.at
        while at < len(self.text):
            byte = self.text[at]
            if byte == 0x5C:
                at += 1
            elif byte in b"()":
                depth += 1 if byte == 0x28 else -1
                if depth == 0:
                    return at + 1
            at += 1
        return len(self.text)

    def _colon(self) -> None:
        end = self.at + 1
        while end < len(self.text) and self.text[end] in _WORD:
            end += 1
        if self.begins and end > self.at + 1 and self.text[end : end + 1] == b":":
            word, _rest = _colon_word(self.text[self.at : end + 1])
            self.out += b":" + word + b":"
            self.at = end + 1
            self.begins = False
            return
        self.begins = True
        self._copy(self.at + 1)

    def _command(self) -> None:
        at = self._skip_blanks(self.at + 1)
        if self.text[at : at + 1] == b'"':
            end = self._quote_end(at)
            if end < 0 or not self._ends_item(end):
                raise ListError(UNQUOTED + _shown(self.text[self.at :]))
            if not self.text[at + 1 : end - 1].strip():
                raise ListError(b"an empty command")
            self.out += b'"|' + self.text[at + 1 : end]
            self.at = end
        else:
            end = at
            while end < len(self.text) and self.text[end] not in b' \t\r\n,"':
                end += 1
            if at > self.at + 1 or not self._ends_item(end):
                raise ListError(UNQUOTED + _shown(self.text[self.at :]))
            self._copy(end)
        self.begins = False

    def _skip_blanks(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in b" \t":
            at += 1
        return at

    def _ends_item(self, at: int) -> bool:
        """Whether nothing but a comment stands between ``at`` and a comma or the end of the line."""
        after = self._skip_blanks(at)
        rest = self.text[after : after + 1]
        return rest in (b"", b",", b"\n", b"(") or (rest == b"#" and after > at)


def _colon_word(text: bytes) -> tuple[bytes, bytes]:
    """``include`` and the rest of ``:include:rest``, in any case. Raises ListError for other words."""
    word, colon, rest = text[1:].partition(b":")
    if not colon or word.lower() != b"include":
        raise ListError(b":" + word + b": is not supported")
    return b"include", rest.strip(b" \t")


def refuse_groups(line: bytes) -> None:
    """Raises ListError for ``a, b: c``, two names of an alias, and for a colon in its list, as of a group.

    Any word before such a colon would get mail: ``x: friends: a, b;``, ``x: mailto:a``, and the alias of a line that
    begins with a blank by mistake and so continues the one before.
    """
    try:
        tokens = [token for token in rfc822.tokenize(line) if token[0] != rfc822.COMMENT]
    except rfc822.LexicalError:
        return  # whoever parses it says so
    kinds = [kind for kind, _text in tokens]
    colons = [place for place in _outer_colons(kinds) if not _is_include(tokens, place)]
    if colons and rfc822.COMMA in kinds[: colons[0]]:
        raise ListError(b"an alias has one name, a line for each: " + line.partition(b":")[0].strip())
    if len(colons) > 1:
        what = b"groups are not supported: " if rfc822.SEMICOLON in kinds[colons[1] :] else b"a colon in a list: "
        raise ListError(what + b" ".join(line.split()))


def _outer_colons(kinds: "list[int]") -> "Iterator[int]":
    """Where colons stand outside of angle brackets, in which they may end a route."""
    angle = False
    for place, kind in enumerate(kinds):
        angle = kind == rfc822.LEFT or (angle and kind != rfc822.RIGHT)
        if kind == rfc822.COLON and not angle:
            yield place


def _is_include(tokens: "rfc822.Tokens", place: int) -> bool:
    """Whether the colon at ``place`` is one of the two in ``:include:``."""
    include = (rfc822.ATOM, b"include")
    before = tokens[place - 1] if place else None
    following = tokens[place + 1] if place + 1 < len(tokens) else None
    return (before == include and place > 1 and tokens[place - 2][0] == rfc822.COLON) or (
        following == include and place + 2 < len(tokens) and tokens[place + 2][0] == rfc822.COLON
    )


def _shown(text: bytes) -> bytes:
    """The line at the start of ``text``."""
    return text.partition(b"\n")[0].strip()
