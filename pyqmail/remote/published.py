"""What the other side publishes about TLS: TLSA records (RFC 7672), else an MTA-STS policy (RFC 8461).

Imported only where one of them is asked for. With control/tlspolicy ``say`` what is published is evaluated, and asks
for nothing: where a delivery would have waited it goes out all the same, and its report says ``rehearsal``. A message
with ``TLS-Required: No`` is sent as if nothing was published (RFC 8689 section 5).
"""

from collections.abc import Callable
from dataclasses import replace

from pyqmail.failure import TemporaryFailure
from pyqmail.remote.dane import Dane
from pyqmail.remote.mta_sts import Lookup, Sts
from pyqmail.remote.security import BY_DANE, BY_DANE_ALONE, BY_STS, PUBLISHED, LeftOut, Level, Security

NOT_LISTED = b"Sorry, no exchanger that MTA-STS allows took a connection. (#4.7.5)"  # RFC 8461 section 4.1


class Published:
    """What is published about the exchangers of one delivery to ``domain``.

    ``dane`` makes what asks for TLSA records, or says why none is asked for; it is wanted where a line says dane.
    ``sts`` asks for a domain's policy, None where nobody is to be asked. ``waived``: whether the message wants none of
    it.
    """

    def __init__(
        self,
        domain: bytes,
        *,
        sts: Lookup | None,
        dane: Callable[[], Dane | bytes],
        waived: Callable[[], bool] = lambda: False,
        rehearse: bool = False,
    ) -> None:
        self._domain = domain.lower()
        self._ask_sts = sts
        self._known_sts: Sts | None = None
        self._make_dane = dane
        self._dane: Dane | bytes | None = None
        self._waived = waived
        self._rehearse = rehearse

    def of(self, name: bytes, line: Security) -> Security:
        """What is asked of the exchanger ``name``: ``line``, which is of control/tlsdestinations, or more.

        Raises LeftOut, and TemporaryFailure where a policy could not be learnt.
        """
        usual = replace(line, level=Level.MAY) if line.level is Level.DANE else line
        if self._waived():
            return usual
        try:
            found = self._by_dane(line, name) if line.level is Level.DANE else line
            if found.by not in PUBLISHED:
                found = self._by_sts(found, name)
        except (LeftOut, TemporaryFailure) as trouble:
            if not self._rehearse:
                raise
            return replace(usual, by=b"published policy").lenient(trouble.text)
        return replace(found, rehearsed=self._rehearse and found.by in PUBLISHED)

    def _by_dane(self, line: Security, name: bytes) -> Security:
        """What TLSA records ask of ``name``. Raises LeftOut."""
        if self._dane is None:
            self._dane = self._make_dane()
        if isinstance(self._dane, bytes):
            return replace(line, level=Level.MAY, note=b"no dane: " + self._dane)
        keys = self._dane.of(name)
        if keys is None:
            return replace(line, level=Level.MAY)
        by = BY_DANE if keys.via_signed else BY_DANE_ALONE
        if not keys.records:
            return replace(line, level=Level.ENCRYPT, by=by)
        return replace(line, names=keys.names, records=keys.records, by=by)

    def _by_sts(self, line: Security, name: bytes) -> Security:
        """What the policy of the domain asks of ``name``; it is asked for once. Raises LeftOut and TemporaryFailure."""
        if self._ask_sts is not None:
            self._known_sts, self._ask_sts = self._ask_sts(self._domain), None
        sts = self._known_sts
        if sts is None:
            return line
        if not sts.lists(name):
            raise LeftOut(NOT_LISTED)
        level, names = (Level.VERIFY, (name,)) if sts.patterns else (Level.ENCRYPT, ())
        return Security(level, names, ciphers=line.ciphers, by=BY_STS, note=line.note)
