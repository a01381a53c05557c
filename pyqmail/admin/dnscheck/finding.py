"""What one look at DNS found."""

import json
from dataclasses import dataclass

from pyqmail.formats.printable import visible


@dataclass(frozen=True, slots=True)
class Finding:
    """About a domain, a host or an address: which check, whether all is well, and in words what is there."""

    about: str
    check: str  # mx, spf, dkim, dmarc, ptr, mta-sts, tlsa
    good: bool
    text: str

    def line(self) -> str:
        """For people."""
        return f"{'ok' if self.good else 'warning'}: {self.about}: {self.check}: {self.text}"

    def as_json(self) -> str:
        """The same as an object."""
        return json.dumps({"about": self.about, "check": self.check, "good": self.good, "text": self.text})


def shown(text: bytes) -> str:
    """What DNS said, cut and fit for a terminal."""
    return visible(text[:300])
