"""What a certificate says and how it is put in place (qmail-cert(8)): read by the library that makes signatures.

Files are qmaild's, mode 0400: a group of qmaild's is alias's and qmailp's too. Key and chain go into one file, made
beside it and renamed over it, so that nobody ever sees a key without its certificate.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pyqmail.system.files import write_all
from pyqmail.tcp.certificates import FILE, TlsSettings, host_name, load
from pyqmail.tcp.pem import PEM_MAX, Kind, PemError, blocks, split_pairs

RENEW_DAYS = 14  # before its end a certificate is worth a word
NAMES_DIRECTORY = "servercerts"
OWN_DAYS = 3650  # of a certificate that nobody but us has signed: no client learns anything from its end


@dataclass(frozen=True, slots=True)
class Shown:
    """One certificate: the names that it is for, the type of its key, its issuer, and when it is good (UTC)."""

    names: tuple[str, ...]
    key: str
    issuer: str
    begins: datetime
    ends: datetime
    chain: int  # certificates in the file that come with it, itself included
    self_signed: bool

    def days_left(self, now: datetime) -> int:
        """Whole days; negative once it has ended."""
        return (self.ends - now).days

    def is_for(self, name: str) -> bool:
        """Whether a client that asks for ``name`` would be content (RFC 6125: one label may be a star)."""
        parent = name.partition(".")[2]
        return any(own.lower() in (name, f"*.{parent}") for own in self.names)


def look(pem: bytes) -> list[Shown]:
    """What the keys and chains in ``pem`` would show, one for each key. Raises PemError."""
    load(pem, TlsSettings())
    return [describe([text for kind, text in blocks(pair) if kind is Kind.CERTIFICATE]) for pair in split_pairs(pem)]


def describe(chain: Sequence[bytes]) -> Shown:
    """The first of ``chain``. Raises PemError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        leaf = x509.load_pem_x509_certificate(chain[0])
        public = leaf.public_key()
    except ValueError as error:
        raise PemError(f"a certificate cannot be read: {error}") from None
    key = type(public).__name__.removesuffix("PublicKey").lstrip("_")
    if isinstance(public, rsa.RSAPublicKey):
        key = f"RSA {public.key_size}"
    elif isinstance(public, ec.EllipticCurvePublicKey):
        key = f"ECDSA {public.curve.name}"
    try:
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(alternatives.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = ()
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    issuer = leaf.issuer.rfc4514_string()
    return Shown(names, key, issuer, begins, ends, len(chain), leaf.issuer == leaf.subject)


def complaints(shown: Shown, names: Sequence[str], now: datetime) -> Iterator[str]:
    """What would bite with this certificate for a server of ``names``."""
    if shown.begins > now:
        yield f"is not good before {shown.begins:%Y-%m-%d}"
    left = shown.days_left(now)
    if left < 0:
        yield f"ended {-left} days ago, on {shown.ends:%Y-%m-%d}"
    elif left < RENEW_DAYS:
        yield f"ends in {left} days, on {shown.ends:%Y-%m-%d}"
    if not shown.names:
        yield "has no name in subjectAltName: clients that verify take none"
    for name in names:
        if shown.names and not shown.is_for(name):
            yield f"is not for {name} (but for {', '.join(shown.names[:5])})"
    if shown.chain == 1 and not shown.self_signed:
        yield "comes without the certificates of its issuers: most clients that verify will not take it"


@dataclass(frozen=True, slots=True)
class Installed:
    """One file in control/ and who is shown it."""

    path: str
    name: str  # "" for everybody else

    def read(self) -> list[Shown]:
        """What it shows. Raises PemError and OSError."""
        with open(self.path, "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise PemError("others can read or write it: no server uses it")
            return look(file.read(PEM_MAX + 1))


def installed(home: str) -> list[Installed]:
    """All files, the default first, then by name. Raises OSError."""
    control = f"{home}/control"
    found = [Installed(f"{control}/{FILE}", "")] if os.path.lexists(f"{control}/{FILE}") else []
    try:
        names = sorted(os.listdir(f"{control}/{NAMES_DIRECTORY}"))
    except FileNotFoundError:
        return found
    paths = [(f"{control}/{NAMES_DIRECTORY}/{name}/{FILE}", name) for name in names]
    return found + [Installed(path, name) for path, name in paths if os.path.lexists(path)]


def join(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """One file of all keys and chains, key first. Raises PemError."""
    text = b""
    for chain, key in pairs:
        keys = [block for kind, block in blocks(key) if kind is Kind.KEY]
        certificates = [block for kind, block in blocks(chain) if kind is Kind.CERTIFICATE]
        if len(keys) != 1 or not certificates:
            raise PemError("one file has to hold a chain of certificates, the other one private key")
        text += keys[0] + b"".join(certificates)
    return text


def self_signed(name: str) -> bytes:
    """A fresh ECDSA key and a certificate for ``name`` that signs itself, as PEM. Raises PemError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not host_name(name):
        raise PemError(f"{name} is no host name")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
    begins = today() - timedelta(hours=1)  # clocks differ
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=OWN_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain) + made.public_bytes(serialization.Encoding.PEM)


def install(home: str, pem: bytes, name: str, uid: int, gid: int) -> str:
    """Put ``pem`` in the place of what ``name`` ("" for the default) is shown; its path. Raises PemError and OSError.

    What is there already is replaced only by what has proved good, and only as a whole.
    """
    look(pem)
    if name and not host_name(name):
        raise PemError(f"{name} is no host name")
    directory = f"{home}/control" + (f"/{NAMES_DIRECTORY}/{name}" if name else "")
    os.makedirs(directory, 0o755, exist_ok=True)
    path, temporary = f"{directory}/{FILE}", f"{directory}/.{FILE}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    try:
        try:
            os.fchmod(fd, 0o400)
            if os.geteuid() == 0:
                os.fchown(fd, uid, gid)
            write_all(fd, pem)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path


def today() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)
