"""What the control files of a home say to all its clients alike (qmail-control(5), qmail-smtpd(8))."""

import os
from functools import cached_property

from pyqmail.control import Control, ControlUnreadable, parse_integer
from pyqmail.policy.relaying import Hosts, read_hosts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pyqmail.system.stamp import Seen

    Made = TypeVar("Made")

AccountNames = tuple[bytes, frozenset[bytes]]  # what separates an extension, and domains, in lower case
TIMEOUT_S = 1200
CERTIFICATE = "servercert.pem"


class Site:
    """One home. Each value is made when it is first asked for, which raises ControlUnreadable.

    A process that serves many sessions (``Control.cache``) has one Site for them, while ``stands``.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self._control = Control(home)
        self._seen = look_at(self._control.directory)  # whatever a value was made of; None: nothing is to be kept
        self._made: dict[tuple[str, object], tuple[object]] = {}  # of a file, by a maker
        self.names = self._control.names()  # of all control files; None where nobody may look

    def stands(self) -> bool:
        """Whether all that was made is what would be made now."""
        return self._seen is not None and self._seen.unchanged()

    def _look(self, *names: str) -> Control:
        """The control files, for a value that is made of ``names``."""
        if self._seen is not None:
            for name in names:
                if self.names is None or name in self.names:  # what is missing comes with a stamp of the directory
                    self._seen.look_once(f"{self._control.directory}/{name}")
            if not self._seen.settled():
                self._seen = None
        return self._control

    def made(self, name: str, make: "Callable[[bytes], Made]") -> "Made | None":
        """What ``make``, a function of a module, makes of the bytes of file ``name``; None without one."""
        known = self._made.get((name, make))
        if known is None:
            known = self._made[name, make] = (self._look(name).made(name, make),)
        return known[0]  # type: ignore[return-value]  # each maker has its own entry

    @cached_property
    def databases(self) -> bool:
        """Whether there may be lists that qmail-newlist has made."""
        return self.names is None or any(name.endswith(".cdb") for name in self.names)

    @cached_property
    def has_certificate(self) -> bool | None:
        """Whether there is a servercert.pem; None where each session has to look: a link may lead nowhere later."""
        if self.names is None or CERTIFICATE not in self.names:
            return None if self.names is None else False
        return None if os.path.islink(f"{self._control.directory}/{CERTIFICATE}") else True

    @cached_property
    def greeting(self) -> bytes:
        """What is said to whoever connects and leaves, with the host's name in ASCII at its beginning."""
        greeting = self._look("smtpgreeting", "me").line_or_me("smtpgreeting")
        if greeting is None:
            raise ControlUnreadable("control/smtpgreeting: neither it nor control/me exists")
        return greeting if greeting.isascii() else _with_ascii_name(greeting)

    @cached_property
    def timeout_s(self) -> int:
        """How long qmail-smtpd waits for its client."""
        timeout_s = self._look("timeoutsmtpd").integer("timeoutsmtpd", TIMEOUT_S) & 0xFFFFFFFF  # an int, as in qmail
        return timeout_s if 0 < timeout_s < 0x80000000 else 1

    @cached_property
    def local_ip_host(self) -> bytes | None:
        """The domain in place of our own addresses in brackets."""
        return self._look("localiphost", "me").line_or_me("localiphost")

    @cached_property
    def hosts(self) -> Hosts:
        """The domains that we receive mail for, but those in morercpthosts.cdb."""
        there = self.names is not None and "rcpthosts" in self.names
        return read_hosts(self._look("rcpthosts", *(() if there else ("me", "locals"))))

    @cached_property
    def account_names(self) -> AccountNames:
        """Under which names the system's accounts have mail."""
        return account_names(self._look("conf-break", "me", "locals"))

    @cached_property
    def id_host(self) -> bytes | None:
        """The host in a Message-ID."""
        return self._look("idhost", "me").line_or_me("idhost")

    @cached_property
    def size_limit(self) -> int:
        """databytes, where no variable says otherwise."""
        return self._look("databytes").integer("databytes", 0)

    @cached_property
    def chunking(self) -> bool:
        """Whether BDAT is taken (RFC 3030): with control/chunking."""
        return bool(self._look("chunking").integer("chunking", 0))

    @cached_property
    def log_form(self) -> bytes | None:
        """logformat, if there is one."""
        return self._look("logformat").line("logformat")

    @cached_property
    def logs_decisions(self) -> bool:
        """Whether accepted mail and refusals are logged, where no variable says otherwise."""
        wanted = self._look("logdecisions").line("logdecisions")
        return wanted is None or parse_integer(wanted) != 0


_KEPT: dict[str, Site] = {}  # by home


def site_of(home: str) -> Site:
    """The site as it is now."""
    if Control.cache is None:
        return Site(home)
    site = _KEPT.get(home)
    if site is None or not site.stands():
        site = _KEPT[home] = Site(home)
    return site


def account_names(control: Control) -> AccountNames:
    """Under which names the system's accounts have mail. Raises ControlUnreadable."""
    separator = (control.line("conf-break") or b"-")[:1]
    return separator, frozenset(name.lower() for name in (control.me() or b"", *(control.lines("locals") or ())))


def look_at(directory: str) -> "Seen | None":
    """``directory`` as it is, in a process that keeps what files say; None where a change might not be seen."""
    if Control.cache is None:
        return None
    from pyqmail.system.stamp import Seen  # not for who serves one client

    seen = Seen((directory,))
    return seen if seen.settled() else None


def _with_ascii_name(greeting: bytes) -> bytes:
    """``greeting``, whose first word is our name, with that as A-labels (RFC 6531 section 3.7.1)."""
    from pyqmail.protocol.host_names import ascii_host  # names are ASCII, but for few

    name, blank, words = greeting.partition(b" ")
    return ascii_host(name) + blank + words
