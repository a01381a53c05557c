"""The options of tcpserver (tcpserver(1))."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pyqmail.options import UsageError
from pyqmail.options import parse_options as options_and_words
from pyqmail.tcp.admission import Terms

LETTERS = b"qQvhHpPrRoOdDUXy1c:x:B:g:u:b:l:t:m:M:"
VERBOSITY = (b"q", b"Q", b"v")
NUMBERS = {b"c": "limit", b"g": "gid", b"u": "uid", b"b": "backlog", b"m": "network_limit", b"M": "network_rate"}
TERMS = {b"x": "rules", b"B": "banner", b"l": "local_host"}
FLAGS = {
    b"h": ("remote_host", True),
    b"H": ("remote_host", False),
    b"p": ("paranoid", True),
    b"P": ("paranoid", False),
    b"r": ("ident", True),
    b"R": ("ident", False),
    b"o": ("keep_options", True),
    b"O": ("keep_options", False),
    b"d": ("no_delay", False),
    b"D": ("no_delay", True),
    b"X": ("rules_optional", True),
}
USAGE_TEXT = (
    b"tcpserver: usage: tcpserver [ -1UXpPhHrRoOdDqQvy ] [ -c limit ] [ -x rules.cdb ] [ -B banner ] [ -g gid ] "
    b"[ -u uid ] [ -b backlog ] [ -l localname ] [ -t timeout ] [ -m limit ] [ -M limit ] host port program\n"
)


@dataclass
class Options:
    """The command line."""

    host: bytes = b""
    port: bytes = b""
    program: tuple[bytes, ...] = ()
    verbosity: int = 1
    limit: int = 40
    network_limit: int = 0  # connections at once from one network, 0 for any number
    network_rate: int = 0  # the same in a minute
    uid: int | None = None
    gid: int | None = None
    ids_from_environ: bool = False
    print_port: bool = False
    proxied: bool = False  # each connection begins with a PROXY header
    backlog: int = 20
    terms: Terms = field(default_factory=Terms)


def parse_options(argv: Sequence[bytes]) -> Options:
    """The options of a command line. Raises UsageError."""
    options = Options()
    found, words = options_and_words(argv[1:], LETTERS)
    for letter, value in found:
        if letter in FLAGS:
            setattr(options.terms, *FLAGS[letter])
        elif letter in TERMS:
            setattr(options.terms, TERMS[letter], value)
        elif letter in NUMBERS:
            setattr(options, NUMBERS[letter], digits(value, letter))
        elif letter == b"t":
            options.terms.ident_timeout_s = digits(value, letter)
        elif letter in VERBOSITY:
            options.verbosity = VERBOSITY.index(letter)
        elif letter == b"U":
            options.ids_from_environ = True
        elif letter == b"1":
            options.print_port = True
        elif letter == b"y":
            options.proxied = True
    if len(words) < 3:
        raise UsageError(b"")
    options.host, options.port, options.program = words[0], words[1], tuple(words[2:])
    return options


def digits(value: bytes, letter: bytes) -> int:
    """A number and nothing else: ``-u name`` taken for 0 would leave the server root."""
    if not value.isdigit():
        raise UsageError(b"not a number -- " + letter)
    return int(value[:9])
