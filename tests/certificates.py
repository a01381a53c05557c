"""Certificates for tests, made by openssl(1)."""

import ssl
import subprocess
from pathlib import Path

KEYS = {"ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["-newkey", "rsa:2048"]}


def self_signed(folder: Path, name: str = "mx.test", kind: str = "ecdsa", *, strict: bool = False) -> Path:
    """A file with a key and a certificate for ``name`` that signs itself.

    ``strict``: it says that it may sign others, without which Python 3.13's own clients believe none of them.
    """
    key, certificate, both = (folder / f"{name}-{kind}.{end}" for end in ("key", "crt", "pem"))
    words = ["openssl", "req", "-x509", *KEYS[kind], "-nodes", "-days", "30", "-subj", f"/CN={name}"]
    words += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)]
    words += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"] if strict else []
    subprocess.run(words, check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both


def server_context(pem: Path) -> ssl.SSLContext:
    """What a server with ``pem`` needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def client_context(pem: Path) -> ssl.SSLContext:
    """What a client that trusts ``pem`` alone needs."""
    return ssl.create_default_context(cafile=str(pem))


def signed_by(
    authority: Path, folder: Path, name: str, kind: str = "ecdsa", *, email: str = "", days: int = 30, now: str = ""
) -> Path:
    """A key and a certificate for ``name`` that the self-signed ``authority`` signs; expired where ``days`` is -1.

    ``now``: the time at which it is signed, as faketime(1) has it; empty: the present.
    """
    key, request, certificate, both = (folder / f"{name}-{kind}.{end}" for end in ("key", "csr", "crt", "pem"))
    subject = f"/CN={name}" + (f"/emailAddress={email}" if email else "")
    words = ["openssl", "req", *KEYS[kind], "-nodes", "-subj", subject, "-keyout", str(key), "-out", str(request)]
    subprocess.run(words, check=True, capture_output=True)
    names = folder / f"{name}.ext"
    names.write_text(f"subjectAltName=DNS:{name}" + (f",email:{email}" if email else "") + "\n")
    words = [*(["faketime", now] if now else []), "openssl", "x509", "-req", "-in", str(request)]
    words += ["-CA", str(authority), "-CAkey", str(authority)]
    times = ["-days", str(days)]
    if days < 0 and ssl.OPENSSL_VERSION_INFO >= (3, 4):  # which makes none that ends before it begins
        times = ["-not_before", "20200101000000Z", "-not_after", "20200131000000Z"]
    words += ["-CAcreateserial", *times, "-extfile", str(names), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both
