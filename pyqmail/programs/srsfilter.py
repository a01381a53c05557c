"""srsfilter: send a message for an SRS address on to whom the address stands for (srsfilter(8)).

The check that decides: only an address that was made with a secret of control/srs_secrets, and not too long ago, is
forwarded to. Run by ~alias/.qmail-srs-default, since alias alone may read the secrets.
"""

import time
from collections.abc import Mapping, Sequence

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.intake.resend import Fatal, complain, queue_again
from pyqmail.mailauth.srs import BadSrs
from pyqmail.mailauth.srs_controls import read_srs


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Forward descriptor 0 from NEWSENDER; 100 where the address in DEFAULT is none of ours."""
    try:
        recipient = original(environ)
        letter, text, number = queue_again(environ, environ[b"DTLINE"], environ[b"NEWSENDER"], [recipient])
        if letter != b"K":
            raise Fatal(100 if letter == b"D" else 111, text)
    except Fatal as error:
        complain(b"srsfilter: fatal: " + error.text)
        return error.code
    complain(b"srsfilter: qp %d" % number)
    return 0


def original(environ: Mapping[bytes, bytes]) -> bytes:
    """Whom the address stands for. Raises Fatal."""
    for name in (b"NEWSENDER", b"DTLINE"):
        if name not in environ:
            raise Fatal(100, name + b" not set")
    try:
        srs = read_srs(Control(home_of(environ)))
    except ControlUnreadable as error:
        raise Fatal(111, str(error).encode()) from error
    if srs is None:
        raise Fatal(111, b"there is no control/srs_domain")
    try:
        return srs.reverse(environ.get(b"DEFAULT", environ.get(b"EXT", b"")), time.time())
    except BadSrs as error:
        raise Fatal(100, b"no mail was forwarded from that address: %b (#5.1.1)" % str(error).encode()) from error
