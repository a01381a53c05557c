"""The certificates that our servers show: control/servercert.pem and control/servercerts/NAME/servercert.pem (tls(5)).

A file is loaded into a context of its own, which then shakes hands with itself, once for each type of key, and only
after that it is in force: OpenSSL takes a certificate with a key of another type without a word, and a failed load
breaks the context that it was meant for. Whatever happens to a file later, what is in force stays so, with an alert, as
long as the file exists. Without anything in force a broken file is an error for each client: 454, never clear text.

Contexts and keys belong to one worker. What the parent makes before it forks is one clock for all alerts, and one note
of which file has proved itself.
"""

import hashlib
import mmap
import os
import re
import ssl
import stat
import sys
from collections import OrderedDict
from collections.abc import Callable

from pyqmail.control import Control
from pyqmail.stream.tls import reason
from pyqmail.system.alert_clock import AlertClock
from pyqmail.system.stamp import Stamp, stamp_of
from pyqmail.tcp.pem import PEM_MAX, PemError, split_pairs
from pyqmail.warm.successors import Successors

FILE = "servercert.pem"
NAMED = "servercerts"  # the directory of those for names
NAMES_MAX = 32  # contexts that a worker keeps for names beside the default
OTHERS_MAX = 3  # settings whose contexts a worker keeps beside those that were asked for last
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*\Z")
# A suite for each type of key, to have it shown in a handshake of TLS 1.2; a client of TLS 1.3 takes whatever comes.
_BY_KEY = ("aECDSA", "aRSA")
_ANONYMOUS = "AECDH:@SECLEVEL=0"
Alert = Callable[[str], None]


class NoCertificate(Exception):
    """There is a file, but nothing that could be shown to a client; the text says why, for the log."""


class TlsSettings:
    """What all contexts of a server have in common.

    ``ciphers``: a list in OpenSSL's form for TLS 1.2, empty for the default. ``authorities``: PEM of the CAs whose
    client certificates are asked for, and ``revoked`` their CRLs; none: not asked for.
    """

    __slots__ = ("authorities", "ciphers", "revoked")

    def __init__(self, *, ciphers: str = "", authorities: str = "", revoked: str = "") -> None:
        self.ciphers = ciphers
        self.authorities = authorities
        self.revoked = revoked

    def key(self) -> tuple[str, ...]:
        """What tells it from others."""
        return self.ciphers, self.authorities, self.revoked


USUAL = TlsSettings()


def new_context(settings: TlsSettings) -> ssl.SSLContext:
    """A server's context without a certificate. Raises PemError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.ciphers:
            context.set_ciphers(settings.ciphers)
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.num_tickets = 0  # tickets make some large clients hang up, and a close with one unread is a reset
        if settings.authorities:
            context.load_verify_locations(cadata=settings.authorities)
            context.verify_mode = ssl.CERT_OPTIONAL
        if settings.revoked:
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
            _load_from_memory(settings.revoked.encode(), context.load_verify_locations)
    except (ssl.SSLError, ValueError) as error:
        raise PemError(f"TLS settings: {reason(error)}") from None
    return context


class Proof:
    """Which file has last shaken hands with itself, known to all processes that were forked after this was made.

    A digest of the file and of the settings: another byte, and it has to prove itself again.
    """

    inherited: "Proof | None" = None

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, hashlib.sha256().digest_size)

    def close(self) -> None:
        """Have it no more, in a child that goes on as somebody else."""
        self._shared.close()

    def holds(self, digest: bytes) -> bool:
        """Whether it was this one."""
        return self._shared[:] == digest

    def note(self, digest: bytes) -> None:
        """It is this one now."""
        self._shared[:] = digest


def rehearse() -> None:
    """Have OpenSSL make what all its contexts and handshakes use, before workers are forked that share it.

    No key takes part: the suite is an anonymous one, which no client is ever offered.
    """
    proof = Proof.inherited = Proof()
    if Successors.inherited is not None:
        Successors.inherited.without(proof.close)
    try:
        context = new_context(TlsSettings())
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_ANONYMOUS)
        _shake_hands(context, _ANONYMOUS)
    except (PemError, ssl.SSLError, ValueError):
        return  # an OpenSSL without it: the workers make their own


def load(data: bytes, settings: TlsSettings) -> ssl.SSLContext:
    """A context that shows what is in the PEM ``data``, proved by handshakes, once for all processes with one Proof.

    Raises PemError.
    """
    context = new_context(settings)
    pairs = split_pairs(data)
    for pair in pairs:
        try:
            _load_from_memory(pair, lambda path: context.load_cert_chain(path, password=_no_password))
        except (ssl.SSLError, ValueError, OSError) as error:
            raise PemError(_why_not_loaded(error, pair)) from None
    proof, digest = Proof.inherited, hashlib.sha256(repr((settings.key(), data)).encode()).digest()
    if proof is not None and proof.holds(digest):
        return context
    shown = set()
    for suite in _BY_KEY if len(pairs) > 1 else ("",):
        shown.add(_shake_hands(context, suite))
    leaves = {ssl.PEM_cert_to_DER_cert(_first_certificate(pair)) for pair in pairs}
    if shown != leaves:
        raise PemError("a key and its certificate do not fit, or two keys are of one type")
    if proof is not None:
        proof.note(digest)
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _why_not_loaded(error: Exception, pair: bytes) -> str:
    if b"ENCRYPTED" in pair:
        return "the key is encrypted"
    text = reason(error)
    unfit = "mismatch" in text or text == "no certificate assigned"  # of another type, in OpenSSL's words
    return "the key does not fit the certificate" if unfit else f"cannot be loaded: {text}"


def _first_certificate(pair: bytes) -> str:
    start = pair.index(b"-----BEGIN CERTIFICATE-----") if b"-----BEGIN CERTIFICATE-----" in pair else 0
    return pair[start : pair.index(b"-----END CERTIFICATE-----", start) + 26].decode("ascii", "replace")


def _load_from_memory(data: bytes, load_path: Callable[[str], object]) -> None:
    """Have OpenSSL, which reads files only, read ``data``: a file that has no name and no second version."""
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        load_path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _shake_hands(server: ssl.SSLContext, suite: str) -> bytes:
    """The certificate (DER) that ``server`` shows to a client that takes ``suite`` only. Raises PemError."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        if suite:
            client.maximum_version = ssl.TLSVersion.TLSv1_2
            client.set_ciphers(suite)
        ends = [
            client.wrap_bio(to_client, to_server),
            server.wrap_bio(to_server, to_client, server_side=True),
        ]
        for _ in range(6):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    pass
        shown = ends[0].getpeercert(True)
    except (ssl.SSLError, ValueError) as error:
        raise PemError(f"a handshake with itself fails: {reason(error)}") from None
    return shown or b""


def read_secret(path: str) -> tuple[bytes, Stamp]:
    """A file that others may not read, and its stamp. Raises PemError and OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise PemError("no regular file")
        if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise PemError("others can read it" if found.st_mode & stat.S_IROTH else "others can write it")
        if found.st_size > PEM_MAX:
            raise PemError(f"larger than {PEM_MAX} bytes")
        data = b""
        while chunk := os.read(fd, PEM_MAX + 1 - len(data)):
            data += chunk
        return data, stamp_of(found)
    finally:
        os.close(fd)


class _Entry:
    """One file: the stamp that was looked at last, what is in force, and what is wrong with the newest version."""

    __slots__ = ("context", "stamp", "wrong")

    def __init__(self) -> None:
        self.stamp: Stamp | None = None
        self.context: ssl.SSLContext | None = None
        self.wrong = ""


class ServerCertificates:
    """The contexts of one server process, by the names that clients ask for."""

    kept: "ServerCertificates | None" = None  # in a process that keeps control files, too

    def __init__(self, home: str, *, clock: AlertClock | None = None) -> None:
        self.home = home
        self._directory = home + "/control"
        self._clock = clock or AlertClock.inherited or AlertClock()
        self._settings = USUAL
        self._default = _Entry()
        self._named: OrderedDict[str, _Entry] = OrderedDict()
        # the same by settings that other clients have had: a rule of tcpserver may give some of them their ciphers
        self._others: OrderedDict[tuple[str, ...], tuple[_Entry, OrderedDict[str, _Entry]]] = OrderedDict()

    def context(self, settings: TlsSettings | None, alert: Alert, *, named: bool = True) -> ssl.SSLContext:
        """What the next client is shown, by its SNI. No ``settings`` are the usual ones. ``alert`` gets a text for the
        log if something is wrong.

        ``named``: whether there may be a control/servercerts; without one no client is asked for a name, since a
        function that OpenSSL calls costs each handshake. Raises NoCertificate, of which the log has heard then.
        """
        settings = settings or USUAL
        if settings is not self._settings and settings.key() != self._settings.key():
            self._others[self._settings.key()] = self._default, self._named
            self._default, self._named = self._others.pop(settings.key(), (_Entry(), OrderedDict()))
            self._settings = settings
            if len(self._others) > OTHERS_MAX:
                self._others.popitem(last=False)
        context = self._current(self._default, f"{self._directory}/{FILE}", FILE, alert)
        if context is None:
            if self._default.stamp is None and self._clock.due():
                alert(f"control/{FILE}: {self._default.wrong}")
            raise NoCertificate(self._default.wrong)
        context.sni_callback = (lambda sock, name, _: self._choose(sock, name, alert)) if named else None
        if named:
            sys.unraisablehook = _tell_of_no_name
        return context

    def _choose(self, sock: "ssl.SSLObject | ssl.SSLSocket", name: str | None, alert: Alert) -> None:
        """Let ``sock`` show what the client asks for, if we have it; OpenSSL's callback, which must not raise."""
        folded = (name or "").lower()
        if not _NAME.match(folded):
            return
        path = f"{NAMED}/{folded}/{FILE}"
        entry = self._named.pop(folded, None) or _Entry()
        context = self._current(entry, f"{self._directory}/{path}", path, alert)
        if entry.stamp is None:
            return
        self._named[folded] = entry
        if len(self._named) > NAMES_MAX:
            self._named.popitem(last=False)
        if context is not None:
            sock.context = context

    def _current(self, entry: _Entry, path: str, shown: str, alert: Alert) -> ssl.SSLContext | None:
        try:
            now: Stamp | None = stamp_of(os.stat(path))
        except OSError as error:
            now, entry.wrong = None, error.strerror or "cannot be looked at"
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                entry.stamp = entry.context = None
                return None
        if now is None or now != entry.stamp:
            self._reload(entry, path)
        if entry.wrong and self._clock.due():
            kept = "; the one before stays in force" if entry.context else ""
            alert(f"control/{shown}: {entry.wrong}{kept}")
        return entry.context

    def _reload(self, entry: _Entry, path: str) -> None:
        entry.stamp = (0, 0, 0, 0, 0)
        try:
            data, entry.stamp = read_secret(path)
            entry.context, entry.wrong = load(data, self._settings), ""
        except PemError as error:
            entry.wrong = str(error)
        except OSError as error:
            entry.wrong = error.strerror or "cannot be read"


def _tell_of_no_name(found: "sys.UnraisableHookArgs") -> None:
    """The interpreter's own, but not of a name that is no ASCII: its handshake fails, with a line in the log."""
    if not (isinstance(found.exc_value, UnicodeDecodeError) and isinstance(found.object, bytes)):
        sys.__unraisablehook__(found)


def certificates_of(home: str) -> ServerCertificates:
    """Those of ``home``: the same for all sessions of a process that serves many (``Control.cache``)."""
    if Control.cache is None:
        return ServerCertificates(home)
    found = ServerCertificates.kept
    if found is None or found.home != home:
        found = ServerCertificates.kept = ServerCertificates(home)
    return found


def host_name(name: str) -> bool:
    """Whether ``name``, in lower case, may name a directory of control/servercerts."""
    return bool(_NAME.match(name))
