"""What a check is: one rule that is asked when a client connects, for its sender, its recipients and its message."""

from collections.abc import Iterable, Mapping
from importlib import import_module

from pyqmail.control import Control
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.site import site_of
from pyqmail.policy.relaying import Relaying, size_limit_by
from pyqmail.protocol.reply import Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.incoming.stated import SessionState

Evidence = tuple[tuple[bytes, bytes], ...]  # keys and values, each safe for a log line


class Verdict:
    """What a check says. Without a ``reply`` it only tells its ``evidence``.

    A sender's refusal is told to each of its recipients, as qmail does, or with ``at_once`` to MAIL itself.
    """

    __slots__ = ("at_once", "evidence", "reply")

    def __init__(self, reply: Reply | None, evidence: Evidence = (), *, at_once: bool = False) -> None:
        self.reply = reply
        self.evidence = evidence
        self.at_once = at_once


class Rules:
    """What the checks of one session are made of: the control files, each read when it is first asked for.

    ``site`` knows what they say to all clients alike.
    """

    def __init__(self, home: str, environ: Mapping[bytes, bytes]) -> None:
        self.home = home
        self.environ = environ
        self.site = site_of(home)
        self.names = self.site.names  # of the control files; None where nobody may look
        self.control = Control(home, self.names)
        self.bad_recipients = 0  # that this session has named
        self.notes: list[bytes] = []  # for the log, which says them when it may
        self.state: SessionState | None = None  # what is asked of qmail-stated (incoming/stated)
        self._relaying: Relaying | None = None
        self._size_limit: int | None = None

    @property
    def relaying(self) -> Relaying:
        """rcpthosts and morercpthosts.cdb. Raises ControlUnreadable."""
        if self._relaying is None:
            self._relaying = Relaying(self.control, self.site.hosts)
        return self._relaying

    @property
    def size_limit(self) -> int:
        """The largest message in bytes, 0 for any. Raises ControlUnreadable."""
        if self._size_limit is None:
            self._size_limit = size_limit_by(self.site.size_limit, self.environ)
        return self._size_limit

    def has(self, name: str) -> bool:
        """Whether there may be a control file ``name``; what has none need not be asked."""
        return self.names is None or name in self.names

    def close(self) -> None:
        """Give back what is open."""
        if self._relaying is not None:
            self._relaying.close()
        if self.state is not None:
            self.state.close()


class Check:
    """One rule. Making it raises ControlUnreadable, and so may asking it."""

    name = ""  # for qmail-explain
    active = True  # one that is not is never asked

    def __init__(self, rules: Rules) -> None:
        pass

    @property
    def recipients_max(self) -> int:
        """Of one message, as EHLO tells; 0 for any number."""
        return 0

    def holds(self, client: Client) -> bool:
        """Whether the text of this ``client`` is to be held until ``message`` has answered."""
        return False

    def connected(self, client: Client) -> Verdict | None:
        """Before the greeting; a reply ends the session."""

    def sender(self, client: Client, letter: Letter) -> Verdict | None:
        """``letter.sender`` and ``letter.parameters`` are known."""

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        """One more recipient wants to be ``letter``'s."""

    def message(self, client: Client, letter: Letter) -> Verdict | None:
        """The text has come, all of it in ``letter.held`` if this check wants it so."""

    def close(self) -> None:
        """The session is over."""


class Seldom:
    """A check that most do without: its module is imported only where one of its files or variables is there.

    ``place`` is ``MODULE:CLASS`` in this room, ``name`` the check's own, ``files`` are in control/.
    """

    __slots__ = ("_place", "files", "name", "variables")

    def __init__(self, place: str, name: str, files: Iterable[str] = (), variables: Iterable[bytes] = ()) -> None:
        self._place = place
        self.name = name
        self.files = frozenset(files)
        self.variables = frozenset(variables)

    def wanted(self, names: frozenset[str] | None, variables: frozenset[bytes]) -> bool:
        """Whether any is there; ``names`` None is a directory that nobody may look at."""
        if not self.variables.isdisjoint(variables):
            return True
        return bool(self.files) and (names is None or not self.files.isdisjoint(names))

    def load(self) -> type[Check]:
        """The check itself."""
        module, _, kind = self._place.partition(":")
        found: type[Check] = getattr(import_module(f"pyqmail.incoming.{module}"), kind)
        return found
