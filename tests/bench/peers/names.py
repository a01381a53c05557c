"""The domains that strangers write from, their DNS by nsd behind unbound, and their signed letters."""

import base64
import contextlib
import functools
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.peers.common import STATE, find
from tests.bench.peers.load import BODY
from tests.bench.peers.private import STRANGER
from tests.nameserver import nameserver

SELECTOR = "bench"
TOP = "example"  # test is empty by itself in unbound, also inside of opendkim
CLIENT = f"client.{TOP}"
STRANGERS = [f"a{number}.{TOP}" for number in range(10)]
NSD = "127.0.0.2"
UNBOUND = """server:
  interface: 127.0.0.1
  username: ""
  chroot: ""
  directory: "{base}"
  pidfile: "{base}/pid"
  do-not-query-localhost: no
  do-ip6: no
  module-config: "iterator"
  local-zone: "100.51.198.in-addr.arpa." nodefault
stub-zone:
  name: "example."
  stub-addr: {nsd}
stub-zone:
  name: "100.51.198.in-addr.arpa."
  stub-addr: {nsd}
remote-control:
  control-enable: no
"""


@functools.cache
def signing_key():
    """(path, public key in base64) of the RSA key, 2,048 bits, that all domains have."""
    path = Path(STATE, "signing-key")
    if not path.exists():
        subprocess.run(["openssl", "genrsa", "-out", path, "2048"], check=True, capture_output=True)
    words = ["openssl", "rsa", "-in", path, "-pubout", "-outform", "DER"]
    return str(path), base64.b64encode(subprocess.run(words, check=True, capture_output=True).stdout).decode()


def zones():
    """What nsd serves: SPF by an include, a key, a policy to reject, and a name for the client."""
    public = signing_key()[1]
    key = " ".join(f'"{piece}"' for piece in ("v=DKIM1; k=rsa; p=", public[:250], public[250:]))
    lines = ["ns A 127.0.0.2", f"client A {STRANGER}"]
    for domain in STRANGERS:
        name = domain.removesuffix("." + TOP)
        lines += [
            f'{name} TXT "v=spf1 include:_spf.{domain} -all"',
            f'_spf.{name} TXT "v=spf1 ip4:{STRANGER} ~all"',
            f"{name} MX 10 mx.{name}",
            f"mx.{name} A {STRANGER}",
            f'_dmarc.{name} TXT "v=DMARC1; p=reject"',
            f"{SELECTOR}._domainkey.{name} TXT {key}",
        ]
    reverse = f"{STRANGER.rpartition('.')[2]} PTR {CLIENT}."
    return {TOP: lines, "100.51.198.in-addr.arpa": ["ns A 127.0.0.2", reverse]}


@contextlib.contextmanager
def resolver():
    """unbound on 127.0.0.1, as resolv.conf of private.py has it."""
    with nameserver(NSD, zones()), tempfile.TemporaryDirectory(prefix="mta-bench-unbound.") as base:
        conf = Path(base, "unbound.conf")
        conf.write_text(UNBOUND.format(base=base, nsd=NSD))
        server = subprocess.Popen([find("unbound"), "-d", "-c", conf], stderr=subprocess.DEVNULL)
        question = ["dig", "+short", "+time=1", "+tries=1", "@127.0.0.1", STRANGERS[0], "TXT"]
        try:
            limit = time.monotonic() + 20
            while b"spf1" not in subprocess.run(question, capture_output=True, check=False).stdout:
                if time.monotonic() > limit:
                    raise TimeoutError("unbound does not answer")
            yield
        finally:
            server.terminate()
            server.wait()


def signed_letters(recipient, count):
    """letter(number) for ``count`` messages from the strangers, each signed beforehand by its domain."""
    from pyqmail.mailauth.canonical import parse_fields
    from pyqmail.mailauth.signing import hash_body, load_key, sign

    pem = Path(signing_key()[0]).read_bytes()
    keys = {domain: load_key(domain.encode(), SELECTOR.encode(), pem) for domain in STRANGERS}
    body_hash = hash_body([BODY.replace(b"\r\n", b"\n")])
    run, letters = time.time_ns(), []
    for number in range(count):
        domain = STRANGERS[number % len(STRANGERS)]
        sender = f"sender@{domain}"
        head = (
            f"From: {sender}\nTo: {recipient}\nSubject: bench\nDate: Sat, 28 Nov 2026 12:00:00 +0000\n"
            f"Message-Id: <{number}.{run}@{domain}>\n"
        ).encode()
        field = sign(parse_fields(head), body_hash, [keys[domain]], int(time.time()))
        letters.append((sender.encode(), recipient.encode(), (field + head + b"\n").replace(b"\n", b"\r\n") + BODY))
    return letters.__getitem__
