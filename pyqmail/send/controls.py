"""The control files of qmail-send (qmail-send(8), qmail-control(5))."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyqmail.control import Control, parse_integer, read_knobs
from pyqmail.log.sinks import FORMATS
from pyqmail.policy.classify import Routing
from pyqmail.policy.routing import read_routing

DIGITS = b"0123456789"
OTHERS = b"*"  # in domainconcurrency


@dataclass(frozen=True, slots=True)
class Controls:
    """Everything that qmail-send reads at start and at HUP.

    ``faults``: what did not parse, as sentences; those values are the defaults. ``bounce_max``: bytes of the original
    in a bounce, None for all of it. ``dsn_bounces``: whether bounces are multipart/report. ``delay_notice_s``: how old
    a message must be for a notice of its delay, 0 for none. ``double_bounce_to``: None where double bounces are
    discarded. ``metrics_file``: a path, below the home if it is relative; empty for none.
    ``together``: how many recipients of one domain may go in one command to the remote channel.
    ``log_format`` and ``copies`` (whether messages are copied elsewhere): at start only. ``share``: by channel, how
    many deliveries at once a user or a domain without a limit of its own may have; 0 for as many as there are slots,
    None where nothing says so.
    """

    me: bytes | None
    routing: Routing
    lifetime_s: int
    concurrency: dict[str, int]
    domain_concurrency: Mapping[bytes, int]
    share: Mapping[str, int | None]
    break_char: bytes
    bounce_from: bytes
    bounce_host: bytes
    bounce_max: int | None
    dsn_bounces: bool
    delay_notice_s: int
    double_bounce_to: bytes | None
    metrics_file: bytes
    together: int
    log_format: bytes
    copies: bool
    faults: tuple[str, ...]


class _Reader:
    """Reads number files and remembers what was none."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.faults: list[str] = []

    def integer(self, name: str, default: int) -> int:
        """The number in ``name``; the default without the file, or with a fault."""
        data = self.control.read(name)
        if data is None:
            return default
        value = parse_integer(data)
        if value is None:
            self.faults.append(f"control/{name}: no number at its start")
            return default
        return value

    def whole_number(self, name: str) -> int | None:
        """The number that is the whole of the first line of ``name``; None without the file, or with a fault."""
        line = self.control.line(name)
        if line is None:
            return None
        if not line or line.strip(DIGITS):
            self.faults.append(f"control/{name}: not a number")
            return None
        return int(line[:18])

    def word(self, name: str, words: Sequence[bytes]) -> bytes:
        """The one of ``words`` that stands in ``name``; the first without the file, or with a fault."""
        line = self.control.line(name)
        if line is None or line in words:
            return line or words[0]
        self.faults.append(f"control/{name}: not one of {b', '.join(words).decode()}")
        return words[0]

    def limits(self, name: str) -> dict[bytes, int]:
        """Lines ``domain:limit``, limits from 1; of equal domains the last line wins, and a fault is no limit.

        The domain ``*`` is every other one, and may have 0.
        """
        limits: dict[bytes, int] = {}
        for line in self.control.lines(name) or ():
            domain, _, digits = line.partition(b":")
            if not domain or not digits or digits.strip(DIGITS) or not (int(digits[:18]) or domain == OTHERS):
                self.faults.append(f"control/{name}: a line is not domain:limit")
            else:
                limits[domain.lower()] = int(digits[:18])
        return limits


def _double_bounce_to(control: Control) -> bytes | None:
    box = control.line("doublebounceto")
    host = control.line_or_me("doublebouncehost", b"doublebouncehost") or b""
    if box == b"":
        return None
    return (b"postmaster" if box is None else box) + b"@" + host


def read_controls(home: str, old: Controls | None = None) -> Controls:
    """The controls of ``home``. Raises ControlUnreadable, also when locals is missing and there is no me.

    ``old``: what was read before; a control/me that has gone since still stands in for a missing locals, as in the
    original.
    """
    control = Control(home)
    reader = _Reader(control)
    me = control.me()
    routing = read_routing(control, me if me is not None or old is None else old.me)
    bounce_from = control.line("bouncefrom")
    domains = reader.limits("domainconcurrency")
    return Controls(
        me=me,
        routing=routing,
        lifetime_s=reader.integer("queuelifetime", 604800),
        concurrency={
            "local": reader.integer("concurrencylocal", 10),
            "remote": reader.integer("concurrencyremote", 20),
        },
        domain_concurrency={domain: limit for domain, limit in domains.items() if domain != OTHERS},
        share={"local": reader.whole_number("userconcurrency"), "remote": domains.get(OTHERS)},
        break_char=read_knobs(home).break_char,
        bounce_from=b"MAILER-DAEMON" if bounce_from is None else bounce_from,
        bounce_host=control.line_or_me("bouncehost", b"bouncehost") or b"",
        bounce_max=reader.whole_number("bouncemaxbytes"),
        dsn_bounces=bool(reader.whole_number("dsnbounces")),
        delay_notice_s=reader.integer("dsndelay", 14400),
        double_bounce_to=_double_bounce_to(control),
        metrics_file=control.line("metricsfile") or b"",
        together=reader.integer("remotebatch", 1),
        log_format=reader.word("logformat", FORMATS),
        copies=control.exists("shadow"),
        faults=tuple(reader.faults),
    )
