"""A message into a Maildir or an mbox, with the lines in front that a mailbox wants (maildir(5), mbox(5))."""

import os
from collections.abc import Iterator, Mapping

from pyqmail.failure import TemporaryFailure
from pyqmail.formats import mailline
from pyqmail.mailbox import maildir, mbox
from pyqmail.mailbox.message import Message
from pyqmail.mailbox.quota import Limit, MaildirQuota
from pyqmail.system.errors import reason


def store(
    path: bytes, environ: Mapping[bytes, bytes], message: Message, serial: int, quota: Limit | None = None
) -> None:
    """Deliver to ``path``: with a slash at its end a Maildir, else an mbox. Raises MailFailure.

    ``serial`` tells apart the deliveries of one message; with a ``quota`` what is in Maildirs is counted.
    """
    lines = [environ.get(name, b"") for name in (b"UFLINE", b"RPLINE", b"DTLINE")]
    if path.endswith(b"/"):
        head = lines[1] + lines[2]
        if quota is not None:
            _store_counted(path, head, message, serial, quota)
            return
        maildir.deliver(path, _joined(head, message.chunks()), serial=serial)
        return
    if is_hidden(path):
        raise TemporaryFailure(path + b" would be a file within a maildir, where nobody reads it. (#4.2.1)")
    mbox.deliver(path, _joined(b"".join(lines), mailline.mbox_body(message.chunks())))


def _store_counted(path: bytes, head: bytes, message: Message, serial: int, usual: Limit) -> None:
    """Deliver to a Maildir that has room. Raises MailFailure."""
    count = MaildirQuota(path, usual)
    try:
        size = len(head) + os.fstat(message.fd).st_size
        count.make_room(size)
    except OSError as error:
        raise TemporaryFailure(b"Unable to count what is in " + path + b": " + reason(error) + b". (#4.3.0)") from error
    maildir.deliver(path, _joined(head, message.chunks()), serial=serial, size=size)
    count.add(size)


def is_hidden(path: bytes) -> bool:
    """Whether an mbox at ``path`` would be new, and lie in a Maildir: a slip of the pen such as ./Maildir/; is one."""
    directory = os.path.dirname(path)
    return (
        not os.path.lexists(path)
        and os.path.isdir(os.path.join(directory, b"new"))
        and os.path.isdir(os.path.join(directory, b"cur"))
    )


def _joined(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """``head`` and ``chunks``, the first two in one piece, so that small mail is one write."""
    yield head + next(chunks, b"")
    yield from chunks
