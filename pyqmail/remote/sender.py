"""Deliveries by SMTP, one after another, to the exchangers of a domain or to its relay (qmail-remote(8)).

In qmail-rspawn's workers one `Sender` serves one delivery after another. With control/remotereuse it keeps a connection
on which a message was accepted for the next delivery to the same place. If that fails before any of the message was
sent, the delivery begins anew on a connection of its own, so that nothing can fail because a connection was kept.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.failure import MailFailure, PermanentFailure, TemporaryFailure
from pyqmail.formats.report import FACTS_VARIABLE
from pyqmail.protocol.host_names import ascii_host
from pyqmail.protocol.smtp_transaction import carriable
from pyqmail.remote.attempts import Attempts, Errand
from pyqmail.remote.controls import FILES, read_controls, watched
from pyqmail.remote.message import Message
from pyqmail.remote.outlasting import Outlasting
from pyqmail.remote.routes import LMTP
from pyqmail.remote.security import Policies
from pyqmail.remote.session import Words, format_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.remote.extras import Extras
    from pyqmail.remote.signatures import Signer

MESSAGE_FD = 0
REPORT_FD = 1

EXPOSED = b"The password of a relay can be read by everyone: chmod 0640 control/%s. (#4.3.5)"
USAGE = b"I (qmail-remote) was invoked improperly. (#5.3.5)"
NO_HOME = b"Unable to switch to home directory. (#4.3.0)"
NO_CONTROLS = b"Unable to read control files. (#4.3.0)"
NO_MEMORY = b"Out of memory. (#4.3.0)"
ROUTES_CHANGED = b"The routes have just changed. (#4.4.4)"
BAD_SENDER = b"Sender address contains CR, LF or NUL, which SMTP cannot carry. (#5.1.7)"


def ascii_domain(address: bytes) -> bytes:
    """``address`` with an internationalised domain as the A-labels that a server without SMTPUTF8 understands."""
    if address.isascii():
        return address
    box, at, host = address.rpartition(b"@")
    return box + at + ascii_host(host)


class Sender:
    """Deliveries one after another. A process that ends after one has a Sender of its own.

    ``trusting``: the host that the caller names is right for all recipients, whatever domain they are of; else they
    must share its route, since qmail-rspawn joined them by what it had read of the control files.
    """

    def __init__(self, *, trusting: bool = False) -> None:
        self._trusting = trusting
        self._controls = watched(read_controls, FILES)
        self._lasting = Outlasting()
        self._signs: Signer | None = None

    def serve(self, argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
        """Deliver, report and return 0."""
        try:
            reports = self._deliver(argv[1:], home_of(environ), environ.get(FACTS_VARIABLE, b""))
        except MailFailure as failure:
            reports = [format_failure(failure)]
        except ControlUnreadable:
            reports = [format_failure(TemporaryFailure(NO_CONTROLS))]
        except MemoryError:
            reports = [format_failure(TemporaryFailure(NO_MEMORY))]
        write_reports(reports)
        return 0

    def wait(self, fd: int) -> None:
        """Return once ``fd`` is readable, or no connection is kept: its time is over, or the peer closed it."""
        self._lasting.keeping.wait(fd)

    def close(self) -> None:
        """Say goodbye on a connection that is kept."""
        self._lasting.keeping.close()

    @staticmethod
    def _extras(home: str, facts: bytes, addresses: Sequence[bytes], message: Message, *, lmtp: bool) -> "Extras":
        """Imported for the few messages that have facts, or addresses in UTF-8. Raises ControlUnreadable."""
        from pyqmail.remote.extras import Extras

        return Extras(home, facts, ascii_domain, addresses, message.header_is_ascii, lmtp=lmtp)

    def _signer(self) -> "Signer":
        """Imported when there are keys: cryptography is heavy."""
        if self._signs is None:
            from pyqmail.remote.signatures import Signer

            self._signs = Signer()
        return self._signs

    def _deliver(self, arguments: Sequence[bytes], home: str, facts: bytes) -> list[bytes]:
        """The reports of one delivery. Raises MailFailure while there is no connection, and ControlUnreadable."""
        if len(arguments) < 3:
            raise PermanentFailure(USAGE)
        host, sender, *recipients = arguments
        try:
            os.chdir(home)
        except OSError as error:
            raise TemporaryFailure(NO_HOME) from error
        controls = self._controls.get(home)
        if not carriable(sender):
            raise PermanentFailure(BAD_SENDER)
        directions = controls.directions
        target = directions.target(host, sender)
        if (
            len(recipients) > 1
            and not self._trusting
            and any(directions.target(one.rpartition(b"@")[2], sender) != target for one in recipients)
        ):
            raise TemporaryFailure(ROUTES_CHANGED)
        route, file = directions.route(host, sender)
        if route and route.login and file in controls.exposed:
            raise TemporaryFailure(EXPOSED % file.encode())
        recipients = [ascii_domain(recipient) for recipient in recipients]
        message = Message(MESSAGE_FD)
        if controls.signers:
            signer = self._signer()
            message.prepend(partial(signer.signatures, home, controls))
            message.unsigned = signer.why
        named = [ascii_domain(sender), *recipients]
        extras = None
        if facts or not all(address.isascii() for address in named):
            extras = self._extras(home, facts, named, message, lmtp=route is not None and LMTP in route.options)
        requires_tls = extras is not None and extras.requires_tls
        say = Words(
            controls.helohost, named[0], recipients, message, controls.ehlo, chunking=controls.chunking, extras=extras
        )
        # where there is REQUIRETLS, TLS-Required: No says nothing (RFC 8689)
        published = self._lasting.published(controls, host, route, message.waives_policies, strict=requires_tls)
        policies = Policies(
            controls.tls, directions.destinations, host, route, extended=controls.ehlo, published=published
        )
        policies.requires_tls = requires_tls
        reporter = self._lasting.reporter(controls, host, route)
        limiter = self._lasting.limiter(home, controls)
        errand = Errand(home, controls, host, route, target, policies, say, reporter, limiter)
        return Attempts(errand, self._lasting).deliver()


def write_reports(reports: Sequence[bytes]) -> None:
    """Hand in the reports; a spawner that is gone is no reason to complain."""
    data = b"".join(report + b"\0" for report in reports)
    try:
        while data:
            data = data[os.write(REPORT_FD, data) :]
    except OSError:
        return
