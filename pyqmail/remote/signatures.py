"""DKIM signatures of what leaves: with which keys, and of which messages (qmail-remote(8)). Imports cryptography.

    control/domainkeys/DOMAIN/SELECTOR   a private key in PEM form; names that end in .pub or .off are none

Only what we vouch for is signed (mailauth/vouching).
"""

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence

from pyqmail.failure import TemporaryFailure
from pyqmail.mailauth.author import BadAuthor, author_domain
from pyqmail.mailauth.canonical import BadHeader, parse_fields, split_message
from pyqmail.mailauth.results import own_authserv_id
from pyqmail.mailauth.signing import SigningKey, UnusableKey, hash_body, load_key, sign
from pyqmail.mailauth.vouching import domains_from, vouched
from pyqmail.protocol.host_names import is_name
from pyqmail.protocol.message_body import LineEnds
from pyqmail.remote.controls import Controls
from pyqmail.system.stamp import Seen, Watched

KEYS_MAX = 8  # of one domain
KEY_MAX = 65536  # bytes of a key's file
DOMAINS_MAX = 1000  # whose keys one process holds
NO_KEY = b"Unable to use the DKIM key control/domainkeys/%b: %b. (#4.3.0)"


class Signer:
    """The signatures of one message after another; keys are read again when their files have changed."""

    def __init__(self) -> None:
        self._keys: dict[str, Watched[list[SigningKey]]] = {}

    def signatures(self, home: str, controls: Controls, pieces: Iterable[bytes]) -> bytes:
        """The fields to put above the message in ``pieces``, LF line ends; empty where none is made.

        Raises TemporaryFailure for a key that cannot be used, and ControlUnreadable.
        """
        try:
            header, body = split_message(_as_received(pieces))
            fields = parse_fields(header)
            author = author_domain(fields)
        except (BadHeader, BadAuthor):
            return b""
        keys = self._keys_for(f"{home}/control/domainkeys", author, controls.signers)
        if not keys:
            return b""
        if not vouched(fields, author, own_authserv_id(controls.control)):
            return b""
        return sign(fields, hash_body(body), keys, int(time.time()))

    def _keys_for(self, directory: str, author: bytes, signers: frozenset[bytes]) -> Sequence[SigningKey]:
        """The keys of ``author``, else those of the nearest domain above that has any."""
        for domain in domains_from(author):
            if domain in signers and (keys := self._keys_in(f"{directory}/{os.fsdecode(domain)}")):
                return keys
        return ()

    def _keys_in(self, path: str) -> list[SigningKey]:
        if path not in self._keys:
            if len(self._keys) >= DOMAINS_MAX:
                self._keys.clear()
            self._keys[path] = Watched(
                read_keys, lambda path: Seen([path, *(f"{path}/{each}" for each in _names(path))])
            )
        return self._keys[path].get(path)


def _names(path: str) -> list[str]:
    """The selectors in a directory of keys. Raises TemporaryFailure."""
    try:
        names = sorted(each for each in os.listdir(path) if not each.startswith(".") and not _set_aside(each))
    except OSError as error:
        raise _unusable(path, error.strerror or "not readable") from None
    if len(names) > KEYS_MAX:
        raise _unusable(path, f"more than {KEYS_MAX} keys")
    return names


def _set_aside(name: str) -> bool:
    return name.endswith((".pub", ".off"))


def read_keys(path: str) -> list[SigningKey]:
    """The keys in a directory that is named as their domain. Raises TemporaryFailure if one of them is of no use."""
    domain = os.fsencode(os.path.basename(path)).lower()
    return [_read_key(domain, f"{path}/{name}") for name in _names(path)]


def _read_key(domain: bytes, path: str) -> SigningKey:
    selector = os.fsencode(os.path.basename(path))
    if not is_name(selector):
        raise _unusable(path, "its name is no selector")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > KEY_MAX:
                raise _unusable(path, "not a file of a key's size")
            if found.st_mode & stat.S_IRWXO:
                raise _unusable(path, "others can read it")
            pem = os.read(fd, KEY_MAX)
        finally:
            os.close(fd)
        return load_key(domain, selector, pem)
    except OSError as error:
        raise _unusable(path, error.strerror or "not readable") from None
    except UnusableKey as error:
        raise _unusable(path, str(error)) from None


def _unusable(path: str, why: str) -> TemporaryFailure:
    name = path.rpartition("/control/domainkeys/")[2]
    return TemporaryFailure(NO_KEY % (os.fsencode(name), why.encode("ascii", "replace")))


def _as_received(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What the receiver has of the message in ``pieces``: with the line ends that it gets, each as LF here."""
    lines = LineEnds()
    for piece in pieces:
        yield lines.encode(piece).replace(b"\r\n", b"\n")
    yield (lines.finish() or b"").replace(b"\r\n", b"\n")
