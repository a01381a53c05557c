"""users/accounts/senders.cdb: what users of the source may send as, beside their own addresses (qmail-smtpd(8)).

user -> address NUL address NUL ...     both in lower case; @DOMAIN and * are addresses too
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from pyqmail.admin.accounts.rows import Refusals, Row
from pyqmail.formats.cdb import write_cdb

ADDRESSES_MAX = 1000  # of one user
USER = re.compile(rb"[!-9;-~]{1,255}")  # no colon, as in control/mailfromrules
ADDRESS = re.compile(rb"\*|[!-~]{0,64}@[a-z0-9.\[\]:_-]{1,255}")


def write_senders(path: str, rows: Iterable[Row], refusals: Refusals) -> int:
    """Write the file ``path``; how many rows it has. Raises OSError."""
    count = 0

    def records() -> Iterator[tuple[bytes, bytes]]:
        nonlocal count
        for user, group in groupby(rows, key=lambda row: row[0]):
            addresses = dict[bytes, None]()
            for _, address in group:
                if USER.fullmatch(user) and ADDRESS.fullmatch(address) and len(addresses) < ADDRESSES_MAX:
                    addresses[address] = None
                    count += 1
                else:
                    refusals.add(user, "no user and address, or too many of them")
            if addresses:
                yield user, b"".join(address + b"\0" for address in addresses)

    write_cdb(path, records())
    os.chmod(path, 0o644)
    return count
