"""What an SMTP session knows before it begins: control files, variables and the command line (qmail-smtpd(8))."""

import _socket
from collections.abc import Mapping, Sequence

from pyqmail.incoming.authentication import Authentication
from pyqmail.incoming.check import Rules
from pyqmail.incoming.checks import CHECKS, Checks
from pyqmail.incoming.client import Client
from pyqmail.incoming.patience import patience_of
from pyqmail.incoming.refusals import NO_ADDRESSES
from pyqmail.incoming.security import Security, without_claims
from pyqmail.incoming.smtp_connection import SessionEnd
from pyqmail.intake.client import own_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.incoming.plugins import Plugins


EXTENDING = frozenset(("dsnpublic", "smtputf8", "requiretls"))  # control files that offer more, or to more


class Settings:
    """What one session knows before it begins. Raises ControlUnreadable, also when there is no name to greet with."""

    def __init__(self, home: str, environ: Mapping[bytes, bytes], words: Sequence[bytes] = ()) -> None:
        """``words`` name the checker of passwords."""
        environ = without_claims(environ)
        self.rules = Rules(home, environ)
        control, site = self.rules.control, self.rules.site
        self.greeting = site.greeting
        self.home = home
        self.environ = environ
        self.timeout_s = site.timeout_s
        self.local_ip_host = site.local_ip_host
        self.chunking = site.chunking
        self.size_limit = self.rules.size_limit
        self.security = Security(control, environ, there=site.has_certificate)
        self.authentication = Authentication(control, words, environ)
        self.patience = patience_of(environ)
        self.checks = Checks(CHECKS, self.rules)
        self._kept_at_first: bool | None = None
        self.plugins: Plugins | None = None
        if b"SPPCONFFILE" in environ or (self.rules.has("smtpplugins") and b"NOSPP" not in environ):
            from pyqmail.incoming.plugins import read_plugins  # most do without

            self.plugins = read_plugins(self.rules)

    def extensions(self, client: Client) -> tuple[bool, bool, bool]:
        """Whether ``client`` is told of DSN, SMTPUTF8 and REQUIRETLS.

        Whether what it says is kept is asked once in a session for this: once more when it says something.
        """
        names = self.rules.names
        if names is not None and EXTENDING.isdisjoint(names):
            return self._wishes(client) and self._kept(), False, False
        return self.offers_dsn(client), self.offers_smtputf8, self.offers_requiretls(client)

    def _kept(self) -> bool:
        if self._kept_at_first is None:
            self._kept_at_first = self._keeps_facts()
        return self._kept_at_first

    def offers_dsn(self, client: Client) -> bool:
        """Whether ``client`` may use the DSN extension (RFC 3461): who may relay or must log in, others by dsnpublic.

        Only while what is said is kept: by our own queue program, behind one in $QMAILQUEUE that is known to keep it.
        """
        may = self._wishes(client) or (self.rules.has("dsnpublic") and self.rules.control.integer("dsnpublic", 0))
        return bool(may) and self._keeps_facts()

    def _wishes(self, client: Client) -> bool:
        return client.relay is not None or self.authentication.required

    @property
    def offers_smtputf8(self) -> bool:
        """Whether addresses in UTF-8 are taken (RFC 6531): with control/smtputf8, while what is said is kept."""
        control = self.rules.control
        return self.rules.has("smtputf8") and bool(control.integer("smtputf8", 0)) and self._keeps_facts()

    def offers_requiretls(self, client: Client) -> bool:
        """Whether ``client`` may ask that its mail leaves over verified TLS only (RFC 8689).

        With control/requiretls, in a session that is under TLS itself, while what is said is kept.
        """
        control = self.rules.control
        wanted = client.secured is not None and self.rules.has("requiretls") and control.integer("requiretls", 0)
        return bool(wanted) and self._keeps_facts()

    def _keeps_facts(self) -> bool:
        program = self.environ.get(b"QMAILQUEUE")
        safe = program is None or program in (self.rules.control.lines("factsafe") or ())
        return safe and own_program(self.home, warm=True)

    def close(self) -> None:
        """Give back what is open."""
        self.checks.close()
        self.rules.close()

    def localize(self, address: bytes) -> bytes:
        """``address`` with a ``[local ip]`` domain replaced by control/localiphost. Raises SessionEnd."""
        if not address.endswith(b"]") or self.local_ip_host is None:
            return address
        box, at, host = address.rpartition(b"@")
        packed = literal_address(host)
        if not at or packed is None:
            return address
        from pyqmail.policy.interfaces import local_addresses  # seldom needed, and it takes its time to import

        try:
            own = local_addresses()
        except OSError:
            raise SessionEnd(NO_ADDRESSES) from None
        return box + at + self.local_ip_host if packed in own else address


def literal_address(host: bytes) -> bytes | None:
    """The packed address in ``[a.b.c.d]`` or ``[IPv6:...]`` (RFC 5321 section 4.1.3); None for any other text.

    As in the original, each of the four numbers counts by its last eight bits.
    """
    if host[:1] != b"[" or host[-1:] != b"]":
        return None
    text = host[1:-1]
    if text[:5].lower() == b"ipv6:":
        try:
            return _socket.inet_pton(_socket.AF_INET6, text[5:].decode("ascii"))
        except (OSError, ValueError):
            return None
    octets = text.split(b".")
    if len(octets) != 4 or not all(octet.isdigit() and len(octet) <= 9 for octet in octets):
        return None
    return bytes(int(octet) & 255 for octet in octets)
