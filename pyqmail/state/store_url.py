"""The URL in control/statestore: read before rights are given up, since it may have a password; light to import."""

import os
import stat

from pyqmail.control import Control, ControlUnreadable

NAME = "statestore"
OPEN = "it has a password that others may read: chmod 0640"


def read_store(home: str) -> tuple[bytes, str]:
    """The URL, empty where there is none, and why it cannot be used, empty where nothing is known against it."""
    control = Control(home)
    try:
        url = control.line(NAME) or b""
        mode = os.stat(f"{control.directory}/{NAME}").st_mode if has_password(url) else 0
    except (ControlUnreadable, OSError) as error:
        return b"", str(error)
    return url, OPEN if mode & stat.S_IRWXO else ""


def has_password(url: bytes) -> bool:
    """Whether somebody is named in the URL."""
    return b"@" in url


def without_password(url: bytes) -> bytes:
    """The URL as it may be shown."""
    scheme, mark, rest = url.partition(b"://")
    who, at, where = rest.rpartition(b"@")
    return scheme + mark + (who.partition(b":")[0] + b":***" if at else b"") + at + where
