"""The bytes of a bounce: its head, the failures, and the message that could not be delivered (qmail-send(8))."""

import os
import time
from collections.abc import Callable, Iterator, Mapping

from pyqmail.formats.bounce_text import (
    Charset,
    format_break,
    format_cut,
    format_failures_cut,
    format_head,
    format_last_boundary,
    format_part,
    format_report_mime,
    format_return_path,
)
from pyqmail.formats.delivery_status import format_message_fields, format_recipient_fields, parse_paragraphs
from pyqmail.send.controls import Controls
from pyqmail.spool.layout import Layout
from pyqmail.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.formats.facts import Facts

CHUNK = 65536
LOOK_MAX = 1 << 20  # bytes that are looked at to tell their character set
FAILURES_MAX = 4 << 20  # bytes of a bounce that tell of recipients; the rest of them is in the log
HEADER_MAX = 1 << 18  # bytes of the header of an original of which a bounce has no more
NOBODY: Mapping[bytes, bytes] = {}


def bounce_pieces(
    layout: Layout,
    number: int,
    sender: bytes,
    recipient: bytes,
    controls: Controls,
    facts: "Facts | None" = None,
    orcpts: Mapping[bytes, bytes] = NOBODY,
) -> Iterator[bytes]:
    """The bytes of the bounce of ``number``, in pieces. Raises OSError.

    Who used the DSN extension or REQUIRETLS gets a report whatever the controls say, with the ORCPT of each address in
    ``orcpts``.
    """
    if controls.dsn_bounces or facts is not None and (facts.asks_for_notices or facts.requiretls):
        yield from _report(layout, number, sender, recipient, controls, facts, orcpts)
    else:
        yield from _plain(layout, number, sender, recipient, controls)


def _plain(layout: Layout, number: int, sender: bytes, recipient: bytes, controls: Controls) -> Iterator[bytes]:
    """One text, which is QSBMF."""
    charset = _charset(
        sender, controls, (layout.bounce(number), FAILURES_MAX), (layout.mess(number), controls.bounce_max)
    )
    yield _head(number, sender, recipient, controls, charset.mime_fields())
    yield from _at_most(layout.bounce(number), FAILURES_MAX, format_failures_cut)
    yield format_break(double=not sender) + format_return_path(sender)
    yield from _at_most(layout.mess(number), controls.bounce_max, format_cut)


def _report(
    layout: Layout,
    number: int,
    sender: bytes,
    recipient: bytes,
    controls: Controls,
    facts: "Facts | None",
    orcpts: Mapping[bytes, bytes],
) -> Iterator[bytes]:
    """A multipart/report (RFC 3464): the same text, what programs read, and the original.

    An original longer than bouncemaxbytes gives its header only, up to so many bytes (RFC 6522 section 3), and so does
    one whose sender wants no more (RET=HDRS), or that REQUIRETLS protects (RFC 8689 section 5).
    """
    failures, original = layout.bounce(number), layout.mess(number)
    text = _charset(sender, controls, (failures, FAILURES_MAX))
    copied = _charset(sender, controls, (original, controls.bounce_max))
    boundary = b"=_%d.%d.%b" % (int(time.time()), number, os.urandom(9).hex().encode())  # no message can foretell it
    encoding = max(text.encoding, copied.encoding)
    yield _head(number, sender, recipient, controls, format_report_mime(boundary, text, encoding))
    yield from _at_most(failures, FAILURES_MAX, format_failures_cut)
    yield format_break(double=not sender) + format_part(boundary, b"message/delivery-status", b"7bit")
    yield format_message_fields(controls.bounce_host, int(os.stat(original).st_mtime), facts.envid if facts else b"")
    for address, words in parse_paragraphs(_pieces(failures, FAILURES_MAX)):
        yield format_recipient_fields(address, words, orcpts.get(address, b""))
    fits = controls.bounce_max is None or os.stat(original).st_size <= controls.bounce_max
    whole = fits and not (facts and (facts.ret == b"HDRS" or facts.requiretls))
    most = HEADER_MAX if controls.bounce_max is None or fits else controls.bounce_max
    kind = b"message/rfc822" if whole else b"text/rfc822-headers"
    yield format_part(boundary, kind, copied.encoding) + format_return_path(sender)
    yield from _pieces(original) if whole else [read_header(original, most)]
    yield format_last_boundary(boundary)


def _head(number: int, sender: bytes, recipient: bytes, controls: Controls, mime: bytes) -> bytes:
    return format_head(
        int(time.time()),
        controls.bounce_from + b"@" + controls.bounce_host,
        controls.bounce_host,
        recipient,
        number=number,
        double=not sender,
        mime=mime,
    )


def _charset(sender: bytes, controls: Controls, *parts: tuple[str, int | None]) -> Charset:
    """What fits the addresses and the files as far as a look at them may take. Raises OSError."""
    charset = Charset()
    charset.feed(sender + controls.bounce_from + controls.bounce_host)
    for path, most in parts:
        seen = 0
        for piece in _pieces(path):
            if seen >= LOOK_MAX:
                charset.give_up()
            elif most is None or seen < most:
                charset.feed(piece)
                seen += len(piece)
                continue
            break
    return charset


def read_header(path: str, most: int) -> bytes:
    """The header of the message at ``path``, at most the whole lines within ``most`` bytes."""
    text = b"".join(_pieces(path, min(most, HEADER_MAX)))
    end = text.find(b"\n\n")
    return text[: end + 1] if end >= 0 else text[: text.rfind(b"\n") + 1]


def _at_most(path: str, most: int | None, format_note: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """What ``path`` holds, cut after its last whole line within ``most`` bytes, and then saying so."""
    size = os.stat(path).st_size
    if most is None or size <= most:
        yield from _pieces(path)
        return
    shown = 0
    for piece in _pieces(path):
        kept = piece[: most - shown]
        if len(kept) < len(piece) or shown + len(kept) == most:
            kept = kept[: kept.rfind(b"\n") + 1] or kept  # a line longer than a piece is cut where it must be
        shown += len(kept)
        yield kept
        if len(kept) < len(piece) or shown == most:
            break
    yield format_note(shown, size)


def _pieces(path: str, most: int | None = None) -> Iterator[bytes]:
    """What ``path`` holds, or its first ``most`` bytes. Raises OSError."""
    fd = files.open_read(path)
    try:
        while data := os.read(fd, CHUNK if most is None else min(CHUNK, most)):
            yield data
            most = None if most is None else most - len(data)
    finally:
        os.close(fd)
