"""The bytes of a bounce: its head, the failures, and the message that could not be delivered (qmail-send(8))."""

import os
import time
from collections.abc import Callable, Iterator

from pyqmail.formats.bounce_text import Charset, format_break, format_cut, format_failures_cut, format_head
from pyqmail.send.controls import Controls
from pyqmail.spool.layout import Layout
from pyqmail.system import files

CHUNK = 65536
LOOK_MAX = 1 << 20  # bytes that are looked at to tell their character set
FAILURES_MAX = 4 << 20  # bytes of a bounce that tell of recipients; the rest of them is in the log


def bounce_pieces(layout: Layout, number: int, sender: bytes, recipient: bytes, controls: Controls) -> Iterator[bytes]:
    """The bytes of the bounce of ``number``, in pieces. Raises OSError."""
    double = not sender
    bounce_from = controls.bounce_from + b"@" + controls.bounce_host
    mime = _mime_fields(layout, number, sender, controls)
    yield format_head(
        int(time.time()), bounce_from, controls.bounce_host, recipient, number=number, double=double, mime=mime
    )
    yield from _at_most(layout.bounce(number), FAILURES_MAX, format_failures_cut)
    yield format_break(sender, double=double)
    yield from _at_most(layout.mess(number), controls.bounce_max, format_cut)


def _mime_fields(layout: Layout, number: int, sender: bytes, controls: Controls) -> bytes:
    """What fits the failures and the message as far as a look at them may take. Raises OSError."""
    charset = Charset()
    charset.feed(sender + controls.bounce_from + controls.bounce_host)
    for path, most in ((layout.bounce(number), FAILURES_MAX), (layout.mess(number), controls.bounce_max)):
        seen = 0
        for piece in _pieces(path):
            if seen >= LOOK_MAX:
                charset.give_up()
            elif most is None or seen < most:
                charset.feed(piece)
                seen += len(piece)
                continue
            break
    return charset.mime_fields()


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


def _pieces(path: str) -> Iterator[bytes]:
    fd = files.open_read(path)
    try:
        while data := os.read(fd, CHUNK):
            yield data
    finally:
        os.close(fd)
