"""qmail-pop3d: hands out the messages of one Maildir by POP3 (qmail-pop3d(8), RFC 1939).

    qmail-pop3d Maildir

Started by qmail-popup and a checkpassword, as the user. The session is local/pop3_session.
"""

import os

from pyqmail.local.pop3_session import SessionOver, answer
from pyqmail.protocol import pop3
from pyqmail.stream.descriptors import DescriptorStream
from pyqmail.stream.lines import LineTooLong
from pyqmail.stream.stream import StreamEnded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TIMEOUT_S = 1200


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Serve one client on descriptors 0 and 1; always 0, but 1 as root."""
    if os.getuid() == 0:
        os.write(2, b"qmail-pop3d invoked as uid 0, terminating\n")
        return 1
    stream = DescriptorStream(0, 1, TIMEOUT_S, shared=True)
    try:
        answer(stream, argv[1:])
    except (SessionOver, StreamEnded):
        return 0
    except (LineTooLong, MemoryError):
        stream.write(pop3.NO_MEMORY)
    stream.close()
    return 0
