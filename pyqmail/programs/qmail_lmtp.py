"""qmail-lmtp: give a message to an LMTP server, from a .qmail file (qmail-lmtp(1)).

|qmail-lmtp PATH|ADDRESS[:PORT] [RECIPIENT]
"""

from collections.abc import Mapping, Sequence

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.remote.lmtp_delivery import deliver, parse_place
from pyqmail.system.files import write_all

USAGE = b"qmail-lmtp: usage: qmail-lmtp path|address[:port] [recipient]\n"
CODES = {b"K": 0, b"Z": 111, b"D": 100}


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """The outcome as qmail-command(8) has it; what the server said goes to descriptor 1."""
    place = parse_place(argv[1]) if len(argv) in (2, 3) else None
    recipient = argv[2] if len(argv) == 3 else environ.get(b"RECIPIENT", b"")
    if place is None or not recipient:
        _say(USAGE)
        return 111  # a typing error in a .qmail file is no reason to bounce
    try:
        helohost = Control(home_of(environ)).line_or_me("helohost")
    except ControlUnreadable:
        helohost = None
    if helohost is None:
        _say(b"qmail-lmtp: unable to read control files\n")
        return 111
    report = deliver(place, helohost, environ.get(b"SENDER", b""), recipient, environ.get(b"DTLINE", b""))
    _say(report[1:])
    return CODES[report[:1]]


def _say(text: bytes) -> None:
    """For the log; where nobody listens, what became of the message stands all the same."""
    try:
        write_all(1, text)
    except OSError:
        return
