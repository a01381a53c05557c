"""The keys of one domain for DKIM as qmail-dkimkey(8) keeps them: made, waiting for their record, signing, retired.

    SELECTOR.off           waits: it does not sign before DNS has its record
    SELECTOR               signs
    SELECTOR.retired.off   signs no more; its record stays for the mail that is on its way

Each step is one rename, which qmail-remote notices at once. Files are root:qmail 0640: qmail-remote is in that group.
"""

import os
import time
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pyqmail.mailauth.key_files import OFF, key_names, read_key
from pyqmail.mailauth.signing import SigningKey
from pyqmail.policy.accounts import Accounts
from pyqmail.system.files import sync, sync_directory, write_all

RETIRED = ".retired" + OFF
RSA_BITS = 2048  # what one answer of DNS by UDP can carry, and RFC 8301 section 3.2 asks for
KINDS = ("rsa", "ed25519")


class NotDone(Exception):
    """Nothing was done; the text says why."""


class DomainKeys:
    """The keys of ``domain``. Every method raises OSError and KeyFileUnusable."""

    def __init__(self, home: str, domain: bytes, accounts: Accounts) -> None:
        self.directory = f"{home}/control/domainkeys/{os.fsdecode(domain)}"
        self._domain = domain
        self._accounts = accounts

    def signing(self) -> list[SigningKey]:
        """Those that sign."""
        return [self._read(name, "") for name in key_names(self.directory)] if self._exists else []

    def waiting(self) -> list[SigningKey]:
        """Those that wait for their record."""
        names = sorted(os.listdir(self.directory)) if self._exists else []
        waiting = [name for name in names if name.endswith(OFF) and not name.endswith(RETIRED) and name[0] != "."]
        return [self._read(name.removesuffix(OFF), OFF) for name in waiting]

    def make(self, kind: str, selector: str = "") -> SigningKey:
        """A new key that waits. Raises NotDone where there is one by that name."""
        self._make_directory()
        selector = selector or self._free_selector(kind)
        if self._taken(selector):
            raise NotDone(f"there is a key {selector} already")
        key = generate_private_key(65537, RSA_BITS) if kind == "rsa" else Ed25519PrivateKey.generate()
        self._write(selector + OFF, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return self._read(selector, OFF)

    def use(self, key: SigningKey) -> Sequence[SigningKey]:
        """Let a key that waits sign, and retire the others of its kind; those."""
        before = [each for each in self.signing() if each.algorithm == key.algorithm]
        self._rename(key, OFF, "")
        for each in before:
            self.retire(each)
        return before

    def retire(self, key: SigningKey) -> None:
        """Let a key sign no more."""
        self._rename(key, "", RETIRED)

    @property
    def _exists(self) -> bool:
        return os.path.isdir(self.directory)

    def _read(self, selector: str, ending: str) -> SigningKey:
        return read_key(f"{self.directory}/{selector}{ending}", self._domain, selector)

    def _taken(self, selector: str) -> bool:
        return any(os.path.lexists(f"{self.directory}/{selector}{ending}") for ending in ("", OFF, RETIRED))

    def _free_selector(self, kind: str) -> str:
        """``rsa-20261128``, or with a number behind it."""
        base = f"{kind}-{time.strftime('%Y%m%d', time.gmtime())}"
        names = [base, *(f"{base}-{number}" for number in range(2, 100))]
        return next((name for name in names if not self._taken(name)), base)

    def _rename(self, key: SigningKey, before: str, after: str) -> None:
        path = f"{self.directory}/{os.fsdecode(key.selector)}"
        os.rename(path + before, path + after)
        sync_directory(self.directory)

    def _make_directory(self) -> None:
        """Its name, which is in DNS, may be seen by all; what is in it is qmail-remote's and root's."""
        parent = os.path.dirname(self.directory)
        for path, mode in ((parent, 0o755), (self.directory, 0o750)):
            if os.path.isdir(path):
                continue
            os.mkdir(path, 0o700)
            self._give(path)
            os.chmod(path, mode)

    def _write(self, name: str, pem: bytes) -> None:
        path, temporary = f"{self.directory}/{name}", f"{self.directory}/.new.{os.getpid()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._give(fd)
            os.fchmod(fd, 0o640)
            write_all(fd, pem)
            sync(fd)
            os.link(temporary, path, follow_symlinks=False)
        finally:
            os.close(fd)
            os.unlink(temporary)
        sync_directory(self.directory)

    def _give(self, place: str | int) -> None:
        if os.geteuid() == 0 and not self._accounts.single_user:
            os.chown(place, 0, self._accounts.gid_qmail)
