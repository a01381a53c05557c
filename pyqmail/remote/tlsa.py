"""TLSA records of mail servers (RFC 6698 section 2, RFC 7672 section 3.1)."""

from dataclasses import dataclass
from enum import IntEnum

_DIGESTS = {1: ("sha256", 32), 2: ("sha512", 64)}


class Usage(IntEnum):
    """What a record describes; those that need a CA everybody trusts are not for SMTP (RFC 7672 section 3.1.3)."""

    TRUST_ANCHOR = 2  # DANE-TA: an authority that has signed the server's certificate
    END_ENTITY = 3  # DANE-EE: the server's certificate, whatever its name and dates


@dataclass(frozen=True, slots=True)
class Tlsa:
    """One record: its usage; of the whole certificate or of its key; by which digest, none for the data itself."""

    usage: Usage
    of_key: bool
    digest: str
    data: bytes

    def text(self) -> str:
        """As zone files have it, long data cut."""
        return f"{self._words()} {self.data[:8].hex()}..."

    def whole_text(self) -> str:
        """As zone files have it."""
        return f"{self._words()} {self.data.hex()}"

    def _words(self) -> str:
        matching = {"": 0, "sha256": 1, "sha512": 2}[self.digest]
        return f"{self.usage:d} {self.of_key:d} {matching}"


def parse_tlsa(raw: bytes) -> Tlsa | None:
    """The record in the bytes of its data, None where it is none that SMTP can use."""
    if len(raw) < 4 or raw[0] not in list(Usage) or raw[1] > 1:
        return None
    digest, size = _DIGESTS.get(raw[2], ("", len(raw) - 3))
    if (raw[2] and not digest) or len(raw) - 3 != size:
        return None
    return Tlsa(Usage(raw[0]), bool(raw[1]), digest, raw[3:])
