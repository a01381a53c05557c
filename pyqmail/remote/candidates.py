"""The addresses that one delivery tries, and what is said where there is none (qmail-remote(8))."""

from collections.abc import Iterator

from pyqmail.failure import PermanentFailure, TemporaryFailure
from pyqmail.policy.interfaces import has_global_ipv6, own_address
from pyqmail.protocol.dns import parse_literal
from pyqmail.remote.connection import NO_RESOURCES
from pyqmail.remote.controls import Controls
from pyqmail.remote.exchangers import Candidate, Exchangers, NoExchanger, NullExchanger, OnlyOurselves, nobodys
from pyqmail.remote.routes import Route
from pyqmail.resolver import HardFailure, Resolver, Servers, SoftFailure, read_servers

NO_HOST_YET = b"Sorry, I couldn't find any host by that name. (#4.1.2)"
NO_EXCHANGER = b"Sorry, I couldn't find a mail exchanger or IP address. (#5.4.4)"
NULL_EXCHANGER = b"Sorry, that host says that it takes no mail. (#5.1.10)"
OURSELVES = (
    b"Sorry. Although I'm listed as a best-preference MX or A for that host,\n"
    b"it isn't in my control/locals file, so I don't treat it as local. (#5.4.6)"
)


def printable_host(host: bytes) -> bytes:
    """``host`` as a bounce may show it."""
    return bytes(byte if 33 <= byte <= 126 else 63 for byte in host)


def find_candidates(host: bytes, route: Route | None, controls: Controls) -> Iterator[Candidate]:
    """The addresses to try, in order, looked up as they are wanted. Raises MailFailure and ControlUnreadable.

    A route to a socket has one candidate, without an address.
    """
    target = route.relay if route else host
    if route and route.socket:
        yield Candidate(b"", 0, target)
        return
    literal = parse_literal(target)
    if route and literal is not None:  # the address of a relay: nothing to look up, and it may be this very machine
        yield Candidate(literal, 0, target)
        return
    try:
        is_own = nobodys if route else own_address()
        if literal is not None:  # no look-up to come, so no need for the settings of one
            exchangers = Exchangers(Resolver(Servers()), ipv6=False, is_own=is_own)
        else:
            resolver = Resolver(read_servers(controls.control), controls.timeout_connect_s)
            ipv6 = has_global_ipv6()
            exchangers = Exchangers(resolver, ipv6=ipv6, prefer_ipv4=controls.prefer_ipv4, is_own=is_own)
        yield from exchangers.of_relay(target) if route else exchangers.of_host(target)
    except HardFailure as failure:
        text = b"Sorry, I couldn't find any host named " + printable_host(target) + b". (#5.1.2)"
        raise PermanentFailure(text) from failure
    except SoftFailure as failure:
        raise TemporaryFailure(NO_HOST_YET) from failure
    except NullExchanger as failure:
        raise PermanentFailure(NULL_EXCHANGER) from failure
    except NoExchanger as failure:
        raise PermanentFailure(NO_EXCHANGER) from failure
    except OnlyOurselves as failure:
        raise PermanentFailure(OURSELVES) from failure
    except OSError as error:
        raise TemporaryFailure(NO_RESOURCES) from error
