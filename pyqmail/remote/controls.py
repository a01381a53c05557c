"""The control files of qmail-remote and of batching, read again only when one has changed (qmail-remote(8))."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from pyqmail.control import Control, ControlUnreadable
from pyqmail.protocol.spawn import TOGETHER_MAX
from pyqmail.remote import sources
from pyqmail.remote.security import Directions, TlsControls
from pyqmail.system.stamp import Seen, Watched
from pyqmail.system.typed import TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.remote.limits import Limits

SECRETS = ("smtproutes", "authsenders")  # where a line may have a password
FILES = (
    "helohost",
    "me",
    "smtproutes",
    "authsenders",
    "timeoutconnect",
    "timeoutremote",
    "preferipv4",
    "remotereuse",
    "remoteehlo",
    "remotechunking",
    "tlsdestinations",
    "tlshosts",
    "notlshosts",
    "tlsclientciphers",
    "mtasts",
    "tlspolicy",
    "tlsrpt",
    "dnsservers",
    "domainkeys",
    "remotelimits",
    *sources.FILES,
)
BATCH_FILES = ("remotebatch", "remotereuse", *SECRETS, "tlsdestinations")
TIMEOUT_MAX_S = 1_000_000  # what fits every clock of the kernel; control files may ask for more


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Controls:
    """What the control directory says about one delivery; times in seconds."""

    control: Control  # for what is read only where DNS is asked
    helohost: bytes
    directions: Directions
    exposed: frozenset[str]  # of SECRETS those that others can read
    timeout_connect_s: float
    timeout_remote_s: float
    prefer_ipv4: bool
    reuse_s: int
    ehlo: bool  # whether anything is asked for that came after HELO
    chunking: bool  # whether a message may go by BDAT
    tls: TlsControls
    mtasts: str  # where policies are asked for, empty: nowhere
    dane: bool  # whether a line of tlsdestinations asks for TLSA records
    rehearse: bool  # whether what is published is only evaluated
    tlsrpt: str  # the socket of whoever collects what became of TLS, empty: nobody
    sources: sources.Sources
    signers: frozenset[bytes]  # domains that have keys for DKIM
    limits: "Limits"  # by set of exchangers


@dataclass(frozen=True, slots=True)
class BatchControls:
    """What qmail-rspawn looks at: recipients in one transaction (0 or 1: one each), and who shares a route."""

    recipients_max: int
    reuse_s: int
    directions: Directions


NOTHING_JOINED = BatchControls(0, 0, Directions({}, {}, {}))


def read_controls(home: str) -> Controls:
    """The control files of qmail-remote. Raises ControlUnreadable, also when there is neither helohost nor me."""
    control = Control(home)
    helohost = control.line_or_me("helohost")
    if helohost is None:
        raise ControlUnreadable("control/me: no such file")
    directions = _directions(control)
    mtasts = os.fsdecode(control.line("mtasts") or b"")
    dane = any(value.partition(b"|")[0].strip().lower() == b"dane" for value in directions.destinations.values())
    return Controls(
        control=control,
        helohost=helohost,
        directions=directions,
        exposed=frozenset(name for name in SECRETS if control.exists(name) and _exposed(home, name)),
        timeout_connect_s=float(min(control.integer("timeoutconnect", 60), TIMEOUT_MAX_S)),
        timeout_remote_s=float(min(control.integer("timeoutremote", 1200), TIMEOUT_MAX_S)),
        prefer_ipv4=control.integer("preferipv4", 0) != 0,
        reuse_s=min(control.integer("remotereuse", 0), TIMEOUT_MAX_S),
        ehlo=control.integer("remoteehlo", 1) != 0,
        chunking=control.integer("remotechunking", 0) != 0,
        tls=TlsControls(
            home,
            _names_in(home, "tlshosts"),
            _names_in(home, "notlshosts"),
            (control.line("tlsclientciphers") or b"").decode("ascii", "replace"),
        ),
        mtasts=mtasts,
        dane=dane,
        tlsrpt=os.fsdecode(control.line("tlsrpt") or b""),
        rehearse=(dane or bool(mtasts)) and _rehearse(control),
        sources=sources.read_sources(control),
        signers=_names_in(home, "domainkeys") if control.exists("domainkeys") else frozenset(),
        limits=_limits(control),
    )


def _rehearse(control: Control) -> bool:
    word = control.line("tlspolicy") or b"enforce"
    if word not in (b"say", b"enforce"):
        raise ControlUnreadable("control/tlspolicy: neither say nor enforce")
    return word == b"say"


def _limits(control: Control) -> "Limits":
    lines = control.lines("remotelimits")
    if not lines:
        return {}
    from pyqmail.remote.limits import parse_limits  # most trees have none

    return parse_limits(lines)


def _names_in(home: str, name: str) -> frozenset[bytes]:
    """The names, in lower case, of the files in a directory of control. Raises ControlUnreadable."""
    try:
        return frozenset(os.fsencode(each).lower() for each in os.listdir(f"{home}/control/{name}"))
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise ControlUnreadable(f"control/{name}: {error.strerror}") from error


def read_batch_controls(home: str) -> BatchControls:
    """The control files that say what may be joined. Raises ControlUnreadable."""
    control = Control(home)
    recipients_max = min(control.integer("remotebatch", 0), TOGETHER_MAX)
    reuse_s = control.integer("remotereuse", 0)
    wanted = recipients_max > 1 or reuse_s > 0
    return BatchControls(recipients_max, reuse_s, _directions(control) if wanted else NOTHING_JOINED.directions)


def _directions(control: Control) -> Directions:
    return Directions(*(control.mapping(name) or {} for name in (*SECRETS, "tlsdestinations")))


def _exposed(home: str, name: str) -> bool:
    """Whether others than owner and group can read a control file."""
    try:
        return bool(os.stat(f"{home}/control/{name}").st_mode & stat.S_IRWXO)
    except OSError:
        return False


def watched(read: Callable[[str], T], files: tuple[str, ...]) -> Watched[T]:
    """What ``read(home)`` makes of the control ``files``.

    A file that was not there is not looked for as long as nothing was added to the directory.
    """

    def look(home: str) -> Seen:
        seen = Seen()
        there = seen.look(f"{home}/control")
        for path in (f"{home}/control/{name}" for name in files):
            if not there or _is_named(path):
                seen.look(path)
        return seen

    return Watched(read, look)


def _is_named(path: str) -> bool:
    """Whether the directory has such a name, if only a link that leads nowhere: then it may lead somewhere later."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True
