"""What control/accounts says: where accounts are kept, and how they are asked for (qmail-accounts(8)).

    NAME: VALUE             a line that begins with a blank goes on with the value before it
    # a comment

The file may have a password, so that nobody but its owner and group may read it.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

FILE = "/control/accounts"  # below the home
SIZE_MAX = 65536
COMMON = frozenset(("source", "owner", "homes", "delivery"))
NAMES = {
    "postgresql": frozenset(("connection", "domains", "users", "aliases", "senders", "password")),
    "ldap": frozenset(
        ("uri", "starttls", "cacert", "binddn", "bindpassword", "base")
        + ("domains", "users", "aliases", "senders", "password")
    ),
}  # by source; each source has those of COMMON too
NEEDED = {"postgresql": ("connection", "domains", "users"), "ldap": ("uri", "domains", "users")}


class AccountsTrouble(Exception):
    """Accounts cannot be asked for; the text says why, and has no secret."""


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """The values by name; ``source`` is a key of NAMES."""

    source: str
    values: Mapping[str, str]

    def get(self, name: str, default: str = "") -> str:
        """The value of ``name``, or ``default`` where it is empty or missing."""
        return self.values.get(name) or default


def parse_settings(text: str) -> AccountSettings:
    """The settings in the text of the file. Raises AccountsTrouble."""
    values: dict[str, str] = {}
    name = ""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0] in " \t" and name:
            values[name] += "\n" + line.strip()
            continue
        name, colon, value = line.partition(":")
        if not colon or name in values:
            raise AccountsTrouble(f"control/accounts: line {number} is no NAME: VALUE, or says it again")
        values[name] = value.strip()
    source = values.get("source", "")
    if source not in NAMES:
        raise AccountsTrouble(f"control/accounts: source is one of {', '.join(sorted(NAMES))}")
    for name in values:
        if name not in NAMES[source] | COMMON:
            raise AccountsTrouble(f"control/accounts: {name!r} means nothing with source {source}")
    for name in NEEDED[source]:
        if not values.get(name):
            raise AccountsTrouble(f"control/accounts: {name} is missing")
    return AccountSettings(source, values)


def read_settings(home: str) -> AccountSettings:
    """The settings of ``home``. Raises AccountsTrouble, also where others than owner and group may read them."""
    try:
        with open(home + FILE, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & stat.S_IRWXO or status.st_uid not in (0, os.geteuid()):
                raise AccountsTrouble("control/accounts: others may read it, or it is not root's: chmod 0600")
            data = file.read(SIZE_MAX + 1)
        if len(data) > SIZE_MAX:
            raise AccountsTrouble("control/accounts: it is too long")
        return parse_settings(data.decode())
    except OSError as error:
        raise AccountsTrouble(f"control/accounts: {error.strerror}") from error
    except ValueError:
        raise AccountsTrouble("control/accounts: it is not UTF-8") from None
