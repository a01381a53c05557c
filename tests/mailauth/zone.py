"""A Lookups that answers from a table: name and kind to records, or an exception to raise."""

import socket
from collections.abc import Iterable, Mapping, Sequence

from pyqmail.mailauth.lookups import Absent
from pyqmail.protocol.dns import Kind, Mx

Records = Mapping[tuple[bytes, Kind], Sequence[bytes] | Exception]


class Zone:
    """TXT and PTR records as they are, addresses as text, MX records as ``10 mail.example.org``."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self.asked: list[bytes] = []

    def _find(self, name: bytes, kind: Kind) -> Sequence[bytes]:
        self.asked.append(name)
        found = self._records.get((name.lower(), kind))
        if isinstance(found, Exception):
            raise found
        if found is None:
            raise Absent(no_name=all(known != name.lower() for known, _ in self._records))
        return found

    def ahead(self, names: Iterable[bytes]) -> None:
        """Nothing is gained by it here."""

    def texts(self, name: bytes) -> tuple[bytes, ...]:
        return tuple(self._find(name, Kind.TXT))

    def addresses(self, name: bytes, kind: Kind) -> tuple[bytes, ...]:
        family = socket.AF_INET if kind is Kind.A else socket.AF_INET6
        return tuple(socket.inet_pton(family, each.decode()) for each in self._find(name, kind))

    def exchangers(self, name: bytes) -> tuple[Mx, ...]:
        found = (each.split(b" ") for each in self._find(name, Kind.MX))
        return tuple(Mx(int(preference), host) for preference, host in found)

    def names(self, reverse: bytes) -> tuple[bytes, ...]:
        return tuple(self._find(reverse, Kind.PTR))


def texts(**records: bytes) -> dict[tuple[bytes, Kind], Sequence[bytes]]:
    """TXT records by name; ``__`` in a keyword is a dot."""
    return {(name.replace("__", ".").encode(), Kind.TXT): [text] for name, text in records.items()}
