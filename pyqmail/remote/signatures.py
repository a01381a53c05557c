"""DKIM signatures of what leaves: with which keys, and of which messages (qmail-remote(8)). Imports cryptography.

    control/domainkeys/DOMAIN/SELECTOR   a private key in PEM form; names that end in .pub or .off are none

Only what we vouch for is signed (mailauth/vouching).
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from pyqmail.control import Control
from pyqmail.failure import TemporaryFailure
from pyqmail.mailauth import key_files
from pyqmail.mailauth.author import BadAuthor, author_domain
from pyqmail.mailauth.canonical import BadHeader, parse_fields, split_message
from pyqmail.mailauth.results import own_authserv_id
from pyqmail.mailauth.signing import SigningKey, hash_body, sign
from pyqmail.mailauth.vouching import domains_from, vouched
from pyqmail.protocol.message_body import LineEnds
from pyqmail.remote.controls import Controls
from pyqmail.system.stamp import Seen, Watched

DOMAINS_MAX = 1000  # whose keys one process holds
NO_KEY = b"Unable to use the DKIM key control/domainkeys/%b: %b. (#4.3.0)"


class Signer:
    """The signatures of one message after another; keys are read again when their files have changed."""

    def __init__(self) -> None:
        self.why = b""  # the last message was not signed although some key is there
        self._keys: dict[str, Watched[list[SigningKey]]] = {}

    def signatures(self, home: str, controls: Controls, pieces: Iterable[bytes]) -> bytes:
        """The fields to put above the message in ``pieces``, LF line ends; empty where none is made, and see ``why``.

        Raises TemporaryFailure for a key that cannot be used, and ControlUnreadable.
        """
        self.why = b""
        try:
            header, body = split_message(as_received(pieces))
            fields = parse_fields(header)
            author = author_domain(fields)
        except (BadHeader, BadAuthor):
            self.why = b"no single author"
            return b""
        try:
            keys = self._keys_for(f"{home}/control/domainkeys", author, controls.signers)
        except TemporaryFailure:
            if not may_be_unsigned(controls.control, author):
                raise
            self.why = author + b" has a key of no use"
            return b""
        if not keys:
            return b""
        if not vouched(fields, author, own_authserv_id(controls.control)):
            self.why = author + b" is not vouched for"
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
            self._keys[path] = Watched(read_keys, _look)
        return self._keys[path].get(path)


def may_be_unsigned(control: Control, author: bytes) -> bool:
    """Whether mail of ``author`` may leave unsigned where a key is of no use. Raises ControlUnreadable."""
    exempt = control.lines("nosignaturedomains") or ()
    return b"*" in exempt or any(domain in exempt for domain in domains_from(author))


def _look(path: str) -> Seen:
    with _key_troubles():
        return Seen([path, *(f"{path}/{each}" for each in key_files.key_names(path))])


def read_keys(path: str) -> list[SigningKey]:
    """The keys in a directory that is named as their domain. Raises TemporaryFailure if one of them is of no use."""
    with _key_troubles():
        return key_files.read_keys(path)


@contextmanager
def _key_troubles() -> Iterator[None]:
    try:
        yield
    except key_files.KeyFileUnusable as error:
        raise TemporaryFailure(NO_KEY % (os.fsencode(error.place), error.why.encode("ascii", "replace"))) from None


def as_received(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What the receiver has of the message in ``pieces``: with the line ends that it gets, each as LF here."""
    lines = LineEnds()
    for piece in pieces:
        yield lines.encode(piece).replace(b"\r\n", b"\n")
    yield (lines.finish() or b"").replace(b"\r\n", b"\n")
