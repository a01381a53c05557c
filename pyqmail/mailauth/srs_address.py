"""What an SRS address looks like; whether it is a good one is for mailauth.srs to say, which loads OpenSSL."""

import re

_LOOKS_SO = re.compile(rb"SRS([01])[-+=]", re.IGNORECASE)


def kind_of(local: bytes) -> bytes:
    """``0`` or ``1`` for a local part as a first or a later forwarder makes them, else nothing."""
    found = _LOOKS_SO.match(local)
    return b"" if found is None else found[1]
