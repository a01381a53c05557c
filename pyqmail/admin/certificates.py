"""What a certificate says and how it is put in place (qmail-cert(8)): read by the library that makes signatures.

Files are qmaild's, mode 0400: a group of qmaild's is alias's and qmailp's too. Key and chain go into one file, made
beside it and renamed over it, so that nobody ever sees a key without its certificate.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pyqmail.formats.printable import visible
from pyqmail.policy.accounts import Accounts
from pyqmail.system.files import write_all
from pyqmail.tcp.certificates import FILE, TlsSettings, host_name, load
from pyqmail.tcp.pem import PEM_MAX, Kind, PemError, blocks, split_pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography.x509 import Certificate

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
    gap: int = 0  # which of them has not signed the one before it; 0 where each has

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
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        all_read = [x509.load_pem_x509_certificate(each) for each in chain]
        leaf = all_read[0]
        public = leaf.public_key()
        names = _names(leaf)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise PemError(f"a certificate cannot be read: {visible(str(error).encode())}") from None
    key = type(public).__name__.removesuffix("PublicKey").lstrip("_")
    if isinstance(public, rsa.RSAPublicKey):
        key = f"RSA {public.key_size}"
    elif isinstance(public, ec.EllipticCurvePublicKey):
        key = f"ECDSA {public.curve.name}"
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    issuer = visible(leaf.issuer.rfc4514_string().encode())
    return Shown(names, key, issuer, begins, ends, len(chain), leaf.issuer == leaf.subject, _gap(all_read))


def _names(leaf: "Certificate") -> tuple[str, ...]:
    """The host names that it is for, fit for a terminal. Raises ValueError and DuplicateExtension."""
    from cryptography import x509

    try:
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(visible(name.encode()) for name in alternatives.get_values_for_type(x509.DNSName))


def _gap(chain: "Sequence[Certificate]") -> int:
    """The place in ``chain`` of the first that has not signed the one before it, from 1; 0 where each has."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    for place in range(1, len(chain)):
        try:
            chain[place - 1].verify_directly_issued_by(chain[place])
        except (ValueError, TypeError, InvalidSignature):
            return place + 1
        except UnsupportedAlgorithm:
            continue  # who knows
    return 0


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
            yield f"is not for {visible(os.fsencode(name))} (but for {', '.join(shown.names[:5])})"
    if shown.chain == 1 and not shown.self_signed:
        yield "comes without the certificates of its issuers: most clients that verify will not take it"
    if shown.gap:
        yield f"certificate {shown.gap} of its chain has not signed the one before it: many clients will not take it"


@dataclass(frozen=True, slots=True)
class Installed:
    """One file in control/ and who is shown it."""

    path: str
    name: str  # "" for everybody else

    def read(self) -> list[Shown]:
        """What it shows. Raises PemError and OSError."""
        with open(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise PemError("no regular file: no server uses it")
            if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise PemError("others can read or write it: no server uses it")
            if found.st_size > PEM_MAX:
                raise PemError(f"larger than {PEM_MAX} bytes: no server uses it")
            return look(file.read())

    def out_of_reach(self, accounts: Accounts) -> Iterator[str]:
        """Why no client is shown it, however good it is. Raises OSError."""
        if self.name and not host_name(self.name):
            yield "its directory's name is no host name in lower case: no client is shown it"
        folders = [os.path.dirname(self.path)]
        if self.name:
            folders.append(os.path.dirname(folders[0]))
        uid, gid = accounts.uid_daemon, accounts.gid_nofiles
        if not all(_may(os.stat(folder), uid, gid, stat.S_IXOTH) for folder in folders):
            yield "its directory is closed to the user of the servers: no client is shown it"
        elif not _may(os.stat(self.path), uid, gid, stat.S_IROTH):
            yield "the user of the servers cannot read it: no client is shown it"


def _may(found: os.stat_result, uid: int, gid: int, right: int) -> bool:
    """Whether that user, with that group alone, as servers have it, has ``right``, as of others, to what is found."""
    shift = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0
    return uid == 0 or bool(found.st_mode >> shift & right)


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
    directory = f"{home}/control"
    for part in (NAMES_DIRECTORY, name) if name else ():
        directory += f"/{part}"
        _make_directory(directory)
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


def _make_directory(path: str) -> None:
    """Have it. Raises OSError."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    os.chmod(path, 0o755)  # whatever the umask: the user of the servers goes through it


def today() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)
