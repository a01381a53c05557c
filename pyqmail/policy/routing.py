"""Which mail is ours: the maps that route it, and the domains that it comes here for (qmail-control(5))."""

from pyqmail.control import Control, ControlUnreadable
from pyqmail.policy.classify import Routing, classify
from pyqmail.policy.relaying import Relaying


def _set(values: tuple[bytes, ...] | None) -> frozenset[bytes]:
    return frozenset(value.lower() for value in values or ())


def read_routing(control: Control, me: bytes | None) -> Routing:
    """The maps as the files have them, ``me`` in the place of a missing locals. Raises ControlUnreadable."""
    local_domains = control.lines("locals")
    if local_domains is None:
        if me is None:
            raise ControlUnreadable("control/locals: neither it nor control/me is there")
        local_domains = (me,)
    return Routing(
        default_host=control.line_or_me("envnoathost", b"envnoathost") or b"",
        locals=_set(local_domains),
        percent_hack=_set(control.lines("percenthack")),
        virtual=control.mapping("virtualdomains") or {},
    )


class OwnDomains:
    """The domains that mail comes here for, read when made: me, locals, virtualdomains, rcpthosts. ``close`` it.

    Raises ControlUnreadable.
    """

    FILES = ("me", "locals", "virtualdomains", "rcpthosts", "morercpthosts.cdb")

    def __init__(self, control: Control) -> None:
        self.me = (control.me() or b"").lower()
        self._routing = read_routing(control, control.me())
        self._relaying = Relaying(control)

    def has(self, domain: bytes) -> bool:
        """Whether ``domain`` is ours. Raises ControlUnreadable."""
        address = b"x@" + domain
        if domain.lower() == self.me or classify(address, self._routing)[0] == "local":
            return True
        return self._relaying.accepts(address)

    def close(self) -> None:
        """Give back what is open."""
        self._relaying.close()
