"""POP3 as qmail speaks it (RFC 1939, qmail-popup(8), qmail-pop3d(8)): command lines in, reply bytes out.

Every bare ``+OK`` is followed by a space, and a message ends with one empty line more than it has: both are qmail's,
and clients are used to them.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OK = b"+OK \r\n"
SYNTAX = b"-ERR syntax error\r\n"
NO_MEMORY = b"-ERR out of memory\r\n"
CAPABILITIES = b"+OK \r\nTOP\r\nUSER\r\nUIDL\r\n.\r\n"  # CAPA (RFC 2449), alike before and after the log-in
BEGIN_TLS = b"+OK begin TLS negotiation\r\n"
NO_TLS = b"-ERR TLS not available at the moment\r\n"
TLS_FIRST = b"-ERR must issue STLS first\r\n"
BEFORE_TLS = b"-ERR nothing may follow STLS in clear\r\n"
LINE_MAX = 100_000  # bytes of a command; the original's limit is its memory


def parse_command(line: bytes) -> tuple[bytes, bytes]:
    """The verb in lower case, and the argument, from a line without its LF.

    One CR is dropped, blanks before the argument are skipped, those after it kept, and a NUL ends the line.
    """
    if line.endswith(b"\r"):
        line = line[:-1]
    verb, _, argument = line.partition(b"\0")[0].partition(b" ")
    return verb.lower(), argument.lstrip(b" ")


def capabilities_with_tls(*, user: bool) -> bytes:
    """The answer to CAPA where STLS can be had (RFC 2595); ``user``: whether a name is taken without it."""
    return b"+OK \r\nTOP\r\n%bUIDL\r\nSTLS\r\n.\r\n" % (b"USER\r\n" if user else b"")


def leading_number(text: bytes) -> tuple[int | None, bytes]:
    """The decimal digits at the start of ``text`` as a number, None without any; and what follows them."""
    rest = text.lstrip(b"0123456789")
    digits = text[: len(text) - len(rest)]
    return (int(digits[:18]) if digits else None), rest


def encode_message(chunks: "Iterable[bytes]") -> "Iterator[bytes]":
    """A whole message as it is sent, its last bytes included; chunk boundaries do not matter."""
    at_start = True
    for chunk in chunks:
        if not chunk:
            continue
        if at_start and chunk.startswith(b"."):
            yield b"."
        yield chunk.replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")
        at_start = chunk.endswith(b"\n")
    yield b"\r\n.\r\n" if at_start else b"\r\n\r\n.\r\n"


def encode_top(chunks: "Iterable[bytes]", lines: int) -> "Iterator[bytes]":
    """The header, the empty line after it, and ``lines`` lines of the body."""
    return encode_message(_top(chunks, lines))


def _top(chunks: "Iterable[bytes]", lines: int) -> "Iterator[bytes]":
    rest = b""
    in_header = True
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if not in_header:
                if not lines:
                    return
                lines -= 1
            yield line + b"\n"
            in_header = in_header and bool(line)
    if rest and (in_header or lines):
        yield rest
