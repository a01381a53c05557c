"""Private keys for DKIM on the disk: control/domainkeys/DOMAIN/SELECTOR (qmail-remote(8)). Imports cryptography.

Names that end in .pub or .off, or begin with a dot, are no keys.
"""

import os
import stat

from pyqmail.mailauth.signing import SigningKey, UnusableKey, load_key
from pyqmail.protocol.host_names import is_name

KEYS_MAX = 8  # of one domain
KEY_MAX = 65536  # bytes of a key's file
OFF = ".off"  # at the end of the name of a key that does not sign


class KeyFileUnusable(Exception):
    """A key, or all of a domain's, cannot sign; ``place`` is below control/domainkeys."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.place = path.rpartition("/control/domainkeys/")[2]
        self.why = why


def key_names(directory: str) -> list[str]:
    """The selectors of the keys in a domain's directory. Raises KeyFileUnusable."""
    try:
        names = sorted(each for each in os.listdir(directory) if not each.startswith(".") and not _set_aside(each))
    except OSError as error:
        raise KeyFileUnusable(directory, error.strerror or "not readable") from None
    if len(names) > KEYS_MAX:
        raise KeyFileUnusable(directory, f"more than {KEYS_MAX} keys")
    return names


def _set_aside(name: str) -> bool:
    return name.endswith((".pub", OFF))


def read_keys(directory: str) -> list[SigningKey]:
    """The keys in a directory that is named as their domain. Raises KeyFileUnusable if one of them is of no use."""
    domain = os.fsencode(os.path.basename(directory)).lower()
    return [read_key(f"{directory}/{name}", domain, name) for name in key_names(directory)]


def read_key(path: str, domain: bytes, selector: str) -> SigningKey:
    """The key in a file. Raises KeyFileUnusable."""
    if not is_name(os.fsencode(selector)):
        raise KeyFileUnusable(path, "its name is no selector")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > KEY_MAX:
                raise KeyFileUnusable(path, "not a file of a key's size")
            if found.st_mode & stat.S_IRWXO:
                raise KeyFileUnusable(path, "others can read it")
            pem = os.read(fd, KEY_MAX)
        finally:
            os.close(fd)
        return load_key(domain, os.fsencode(selector), pem)
    except OSError as error:
        raise KeyFileUnusable(path, error.strerror or "not readable") from None
    except UnusableKey as error:
        raise KeyFileUnusable(path, str(error)) from None
