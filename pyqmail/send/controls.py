"""The control files of qmail-send (qmail-send(8), qmail-control(5))."""

from dataclasses import dataclass

from pyqmail.control import Control, ControlUnreadable
from pyqmail.policy.classify import Routing


@dataclass(frozen=True, slots=True)
class Controls:
    """Everything that qmail-send reads at start and at HUP."""

    routing: Routing
    lifetime_s: int
    concurrency: dict[str, int]
    bounce_from: bytes
    bounce_host: bytes
    double_bounce_to: bytes


def _set(values: tuple[bytes, ...] | None) -> frozenset[bytes]:
    return frozenset(value.lower() for value in values or ())


def read_controls(home: str) -> Controls:
    """The controls of ``home``. Raises ControlUnreadable, also when both locals and me are missing."""
    control = Control(home)
    me = control.me()
    local_domains = control.lines("locals")
    if local_domains is None:
        if me is None:
            raise ControlUnreadable("control/locals")
        local_domains = (me,)
    routing = Routing(
        default_host=control.line_or_me("envnoathost", b"envnoathost") or b"",
        locals=_set(local_domains),
        percent_hack=_set(control.lines("percenthack")),
        virtual=control.mapping("virtualdomains") or {},
    )
    to = control.line("doublebounceto")
    to_host = control.line_or_me("doublebouncehost", b"doublebouncehost") or b""
    bounce_from = control.line("bouncefrom")
    return Controls(
        routing=routing,
        lifetime_s=control.integer("queuelifetime", 604800),
        concurrency={
            "local": control.integer("concurrencylocal", 10),
            "remote": control.integer("concurrencyremote", 20),
        },
        bounce_from=b"MAILER-DAEMON" if bounce_from is None else bounce_from,
        bounce_host=control.line_or_me("bouncehost", b"bouncehost") or b"",
        double_bounce_to=(b"postmaster" if to is None else to) + b"@" + to_host,
    )
