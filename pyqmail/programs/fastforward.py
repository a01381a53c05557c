"""fastforward: forward mail by a forwarding database (fastforward(1); local/alias_database expands the address)."""

import os

from pyqmail.intake.resend import Fatal, complain, queue_again
from pyqmail.local.alias_database import Expansion
from pyqmail.options import UsageError, parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

USAGE = b"fastforward: usage: fastforward [ -nNpPdD ] data.cdb"
HANDED_ON = 99  # qmail-local skips the lines that follow


class Options:
    """What the command line says."""

    def __init__(self, argv: "Sequence[bytes]") -> None:
        """Raises UsageError."""
        letters, words = parse_options(argv[1:], b"nNpPdD")
        if not words:
            raise UsageError(b"")
        flags = {letter.lower(): letter.islower() for letter, _argument in letters}
        self.describe = flags.get(b"n", False)
        self.pass_through = flags.get(b"p", False)
        self.use_default = flags.get(b"d", False)
        self.path = words[0]


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Forward descriptor 0 to whom the database says."""
    try:
        options = Options(argv)
        return forward(options, environ)
    except UsageError as error:
        if error.text:
            complain(b"fastforward: " + error.text)
        complain(USAGE)
        return 100
    except Fatal as error:
        if error.text:
            complain(b"fastforward: fatal: " + error.text)
        return error.code


def forward(options: Options, environ: "Mapping[bytes, bytes]") -> int:
    """Look the recipient up and do what is found; the exit code. Raises Fatal."""
    recipient = incoming(options, environ)
    if not options.describe and not is_open(0):  # else the database would be descriptor 0, and be forwarded
        raise Fatal(111, b"unable to read message")
    expansion = Expansion(options.path, environ, describe=options.describe)
    target = expansion.target(recipient)
    if target is None:
        if options.pass_through:
            return 0
        complain(b"Sorry, no mailbox here by that name. (#5.1.1)")
        return 100
    recipients = expansion.run(target)
    sender = expansion.sender(recipient, environ.get(b"SENDER"))
    if options.describe:
        describe(sender, recipients)
    elif recipients:
        expansion.rewind()
        letter, text, number = queue_again(environ, environ.get(b"DTLINE", b""), sender, recipients)
        if letter != b"K":
            raise Fatal(100 if letter == b"D" else 111, text)
        complain(b"fastforward: qp %d" % number)
    return HANDED_ON if options.pass_through else 0


def is_open(fd: int) -> bool:
    """Whether ``fd`` is open."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def incoming(options: Options, environ: "Mapping[bytes, bytes]") -> bytes:
    """The address that the message came for. Raises Fatal."""
    if not options.use_default:
        if b"RECIPIENT" not in environ:
            raise Fatal(100, b"$RECIPIENT must be set")
        return environ[b"RECIPIENT"]
    local = environ.get(b"DEFAULT", environ.get(b"EXT"))
    if local is None:
        raise Fatal(100, b"$DEFAULT or $EXT must be set")
    if b"HOST" not in environ:
        raise Fatal(100, b"$HOST must be set")
    return local + b"@" + environ[b"HOST"]


def describe(sender: bytes, recipients: "Sequence[bytes]") -> None:
    """Say on descriptor 2 what would be forwarded."""
    if not recipients:
        complain(b"no forwarding")
        return
    complain(b"from <" + sender + b">")
    for recipient in recipients:
        complain(b"to <" + recipient + b">")
