"""What of one delivery is left for the next one in the same process (qmail-remote(8)).

What few deliveries need is imported for the first that does.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from pyqmail.remote import tcpto
from pyqmail.remote.controls import Controls
from pyqmail.remote.kept import Keeping
from pyqmail.remote.routes import SMTP_PORT, Route
from pyqmail.remote.security import Security
from pyqmail.stream.stream import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

    from pyqmail.remote.connection import Place
    from pyqmail.remote.dane import ResolverTest
    from pyqmail.remote.limiter import Limiter
    from pyqmail.remote.published import Published
    from pyqmail.remote.tls_client import TlsClient
    from pyqmail.remote.tlsrpt import Records, Reporter

PLAIN_S = 86_400.0  # that a host whose handshake failed is spared the next one
PLAIN_MAX = 1000  # such hosts that one process knows


class PlainHosts:
    """Hosts, by packed address, whose handshake failed lately and whom nothing obliges to have one."""

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def note(self, packed: bytes) -> None:
        """For a day no handshake is tried there."""
        self._until.pop(packed, None)
        self._until[packed] = time.monotonic() + PLAIN_S
        if len(self._until) > PLAIN_MAX:
            self._until.popitem(last=False)

    def __contains__(self, packed: bytes) -> bool:
        return time.monotonic() < self._until.get(packed, 0.0)


class Outlasting:
    """What of one delivery is left for the next one in the same process."""

    def __init__(self) -> None:
        self.timeouts = tcpto.Reader()
        self.keeping = Keeping()
        self.plain = PlainHosts()
        self._tls: TlsClient | None = None
        self._resolver_test: ResolverTest | None = None
        self._records: Records | None = None
        self._limiter: Limiter | None = None

    def handshake(self, stream: Stream, security: Security, exchanger: bytes) -> Stream:
        """As `TlsClient.shake_hands`, which is imported when the first host offers TLS."""
        if self._tls is None:
            from pyqmail.remote.tls_client import TlsClient

            self._tls = TlsClient()
        return self._tls.shake_hands(stream, security, exchanger)

    @staticmethod
    def race(first: "Place", second: "Place", timeout_s: float) -> "tuple[Place, socket]":
        """As `pyqmail.remote.race.race`, imported when the first exchanger has addresses of both families."""
        from pyqmail.remote.race import race

        return race(first, second, timeout_s)

    def reporter(self, controls: Controls, host: bytes, route: Route | None) -> "Reporter | None":
        """Who is told what became of TLS; with a route nobody, and imported where a control file asks for it."""
        if not controls.tlsrpt or route is not None:
            return None
        from pyqmail.remote.tlsrpt import Records, Reporter

        self._records = self._records or Records()
        return Reporter(controls, host, self._records)

    def limiter(self, home: str, controls: Controls) -> "Limiter | None":
        """Who keeps deliveries within control/remotelimits; None without it."""
        if not controls.limits:
            return None
        if self._limiter is None or self._limiter.limits is not controls.limits:
            from pyqmail.remote.limiter import Limiter

            self._limiter = Limiter(home, controls.limits)
        return self._limiter

    def published(
        self,
        controls: Controls,
        host: bytes,
        route: Route | None,
        waived: Callable[[], bool] = lambda: False,
        *,
        strict: bool = False,
    ) -> "Published | None":
        """What asks for published policies, None where no control file wants them; imported for the first that does.

        ``strict``: they are neither waived nor only rehearsed.
        """
        if not (controls.mtasts or controls.dane):
            return None
        from pyqmail.remote.dane import ResolverTest, prepare
        from pyqmail.remote.mta_sts import ask_policy
        from pyqmail.remote.published import Published

        test = self._resolver_test = self._resolver_test or ResolverTest()
        port = route.port if route else SMTP_PORT
        return Published(
            host,
            # with a route the domain's exchangers are not asked
            sts=partial(ask_policy, controls.mtasts) if controls.mtasts and route is None else None,
            dane=lambda: prepare(controls.control, test, host, port, relay=route is not None),
            waived=(lambda: False) if strict else waived,
            rehearse=controls.rehearse and not strict,
        )
