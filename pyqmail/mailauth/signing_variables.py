"""With which keys and tags the variables of the qmail family ask for a signature (qmail-dkim(8))."""

import os
from collections.abc import Mapping

from pyqmail.mailauth.key_files import KeyFileUnusable, read_key, read_keys
from pyqmail.mailauth.signing import SigningKey
from pyqmail.mailauth.vouching import domains_from
from pyqmail.options import UsageError, parse_options

SIGN_OPTIONS = b"c:lqthi:x:z:"  # what counts of them is -i and -x


def keys_for(home: str, environ: Mapping[bytes, bytes], author: bytes) -> list[SigningKey]:
    """Those that $DKIMSIGN or $DKIMKEY and $DKIMSIGNEXTRA name, else all of the nearest domain in control/domainkeys.

    Of these none where this process may not read them; another may sign later. Raises KeyFileUnusable.
    """
    named = [environ.get(b"DKIMSIGN") or environ.get(b"DKIMKEY"), environ.get(b"DKIMSIGNEXTRA")]
    if named[0]:
        return [key for path in named if path for key in named_key(home, path, author)]
    for domain in domains_from(author):
        directory = f"{home}/control/domainkeys/{os.fsdecode(domain)}"
        if os.access(directory, os.R_OK | os.X_OK) and (keys := read_keys(directory)):
            return keys
    return []


def named_key(home: str, path: bytes, author: bytes) -> list[SigningKey]:
    """The key at ``path``, % for the author's domain or one above it; none where no such domain has one."""
    selector = os.fsdecode(path.rpartition(b"/")[2])
    for domain in domains_from(author):
        place = os.path.join(home, os.fsdecode(path.replace(b"%", domain)))
        if os.path.lexists(place):
            return [read_key(place, domain if b"%" in path else author, selector)]
    if b"%" in path:
        return []
    raise KeyFileUnusable(os.fsdecode(path), "no such file")


def further_tags(environ: Mapping[bytes, bytes]) -> bytes:
    """The i= and x= that $DKIMIDENTITY, $DKIMEXPIRE and $DKIMSIGNOPTIONS ask for."""
    try:
        told = dict(parse_options(environ.get(b"DKIMSIGNOPTIONS", b"").split(), SIGN_OPTIONS)[0])
    except UsageError:
        told = {}
    identity = environ.get(b"DKIMIDENTITY") or told.get(b"i", b"")
    expires = environ.get(b"DKIMEXPIRE") or told.get(b"x", b"")
    tags = b" i=%b;" % identity if identity and not set(identity) & set(b"; \t\r\n") else b""
    return tags + (b" x=%b;" % expires if expires.isdigit() else b"")
