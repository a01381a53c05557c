"""Debian's opendmarc judges as we do by the same records, or the row says who is right by which section.

opendmarc 1.4 is of RFC 7489 and has a list of public suffixes, here ``example`` alone; we are of RFC 9989 and walk.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pyqmail.mailauth.dmarc import evaluate
from pyqmail.mailauth.lookups import CachedLookups
from pyqmail.resolver import Resolver, Servers
from tests.loopback import free_port
from tests.nameserver import nameserver
from tests.scripted_peers import REPO

LIBRARY = "libopendmarc.so.2"
ADDRESS = "127.0.0.1"
VERDICTS = {14: "none", 15: "pass", 16: "reject", 17: "quarantine", 18: "nothing"}  # of dmarc.h: absent, pass ...
REJECT = "v=DMARC1; p=reject"


class Row(NamedTuple):
    """One message: names are below the row's own domain, ``.`` is that; ``ours``: a result, or what a fail asks for."""

    what: str
    author: str
    records: dict[str, str]
    spf: str = ""  # the domain that passed
    signed: str = ""
    ours: str = "reject"
    theirs: str = ""  # where it is another verdict


ROWS = [
    Row("nothing aligns", ".", {".": REJECT}),
    Row("quarantine", ".", {".": "v=DMARC1; p=quarantine"}, ours="quarantine"),
    Row("to be watched", ".", {".": "v=DMARC1; p=none"}, ours="nothing"),
    Row("SPF of the author", ".", {".": REJECT}, spf=".", ours="pass"),
    Row("a signature of the author", ".", {".": REJECT}, signed=".", ours="pass"),
    Row("SPF of a subdomain", ".", {".": REJECT}, spf="m.", ours="pass"),
    Row("a signature of the parent", "m.", {".": REJECT}, signed=".", ours="pass"),
    Row("a signature beside", "a.", {".": REJECT}, signed="b.", ours="pass"),
    Row("SPF of another", ".", {".": REJECT}, spf="other.example"),
    Row("a signature of another", ".", {".": REJECT}, signed="other.example"),
    Row("strict, and it is the same", ".", {".": REJECT + "; adkim=s; aspf=s"}, signed=".", ours="pass"),
    Row("the parent's policy", "a.", {".": REJECT}),
    Row("the parent's policy for subdomains", "a.", {".": REJECT + "; sp=none"}, ours="nothing"),
    Row("not for itself", ".", {".": REJECT + "; sp=none"}),
    Row("a record of the subdomain's own", "a.", {".": REJECT, "a.": "v=DMARC1; p=none"}, ours="nothing"),
    Row("no record", ".", {}, ours="none"),
    Row("another version", ".", {".": "v=DMARC2; p=reject"}, ours="none"),
    Row("blanks around", ".", {".": "v=DMARC1 ;  p = reject ;"}),
    Row("the policy in capitals", ".", {".": "v=DMARC1; p=REJECT"}),
    Row("an unknown tag", ".", {".": REJECT + "; other=x"}),
]
ROWS += [
    Row("a record between is passed over", "b.a.", {"a.": "v=DMARC1; p=quarantine", ".": REJECT}),
    Row("a policy that is none", ".", {".": "v=DMARC1; p=bogus"}, ours="none"),
    Row("the version in small letters", ".", {".": "v=dmarc1; p=reject"}, ours="none"),
    Row("a share of the mail", ".", {".": REJECT + "; pct=0"}),
    Row("a mode that is none", ".", {".": REJECT + "; adkim=x"}, signed="m.", ours="pass"),
    Row("a tag without a name", ".", {".": REJECT + "; ="}),
    Row("beside something else", ".", {".": REJECT, ".+": "something else"}),
    # Strict is the same domain (RFC 9989 section 4.7, adkim and aspf): opendmarc takes parents and children.
    Row("strict about SPF", ".", {".": REJECT + "; aspf=s"}, spf="m.", theirs="pass"),
    Row("strict about signatures", ".", {".": REJECT + "; adkim=s"}, signed="m.", theirs="pass"),
    Row("strict, and the other way round", "m.", {".": REJECT + "; adkim=s"}, signed=".", theirs="pass"),
    # Several records are none (RFC 9989 section 4.10, as RFC 7489 section 6.6.3): opendmarc takes one.
    Row("two records", ".", {".": REJECT, ".+": REJECT}, ours="none", theirs="reject"),
    # The version comes first (section 4.7, as RFC 7489 section 6.3): opendmarc takes it anywhere.
    Row("the version comes later", ".", {".": "p=reject; v=DMARC1"}, ours="none", theirs="reject"),
    # Without a policy that is one, but with reports, it is none (section 4.7, as RFC 7489 section 6.6.3).
    Row("reports and no policy", ".", {".": "v=DMARC1; rua=mailto:x@example.com"}, ours="nothing", theirs="none"),
    Row(
        "reports and a bad policy", ".", {".": "v=DMARC1; p=x; rua=mailto:x@example.com"}, ours="nothing", theirs="none"
    ),
    # t, np and psd (section 4.7) have come after opendmarc 1.4.
    Row("under test", ".", {".": REJECT + "; t=y"}, ours="quarantine", theirs="reject"),
    Row("a domain that is not there", "no.", {".": "v=DMARC1; p=none; np=reject"}, theirs="nothing"),
    Row("an organization of its own", "a.", {"a.": REJECT + "; psd=n"}, signed=".", theirs="pass"),
    Row("below a public suffix", "a.", {".": "v=DMARC1; p=none; psd=y", "a.": REJECT}, signed="b.", theirs="pass"),
]


class Desk(NamedTuple):
    """Both of them, and the name server that they ask."""

    port: int

    def domain(self, row: Row, name: str) -> str:
        """A name of ``row`` in full."""
        if name == "other.example":
            return name
        return name.removesuffix(".") + ("." if name != "." else "") + f"r{ROWS.index(row)}.example" if name else ""

    def ours(self, row: Row) -> str:
        lookups = CachedLookups(Resolver(Servers(((ADDRESS, self.port),))).look_up)
        author, spf, signed = (self.domain(row, name).encode() for name in (row.author, row.spf, row.signed))
        verdict = evaluate(author, spf, [signed] if signed else [], lookups)
        asked = "nothing" if verdict.policy == b"none" else verdict.policy.decode()
        return asked if verdict.result == b"fail" else verdict.result.decode()

    def theirs(self) -> list[str]:
        """What opendmarc says of each row."""
        told = [[self.domain(row, name) for name in (row.author, row.spf, row.signed)] for row in ROWS]
        run = subprocess.run(
            [sys.executable, "-m", "tests.mailauth.test_opendmarc", str(self.port)],
            input=json.dumps(told), capture_output=True, text=True, check=False, timeout=120,
            cwd=REPO,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return [VERDICTS[each] for each in json.loads(run.stdout)]


@pytest.fixture(scope="module")
def verdicts() -> Iterator[list[tuple[str, str]]]:
    """Ours and theirs, of each row."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        assert "PYQMAIL_TESTS_WHOLE" not in os.environ, "libopendmarc2 is not installed"
        pytest.skip("libopendmarc2 is not installed")
    desk = Desk(free_port())
    lines = []
    for row in ROWS:
        for name, record in row.records.items():
            again = " " * name.count("+")  # a set has no record twice
            lines.append(f'_dmarc.{desk.domain(row, name.removesuffix("+"))}. TXT "{record}{again}"')
        if row.author != "no.":
            lines.append(f"{desk.domain(row, row.author)}. A 192.0.2.1")
    with nameserver(ADDRESS, {"example": lines}, port=desk.port):
        yield list(zip(map(desk.ours, ROWS), desk.theirs(), strict=True))


@pytest.mark.parametrize("row", ROWS, ids=[row.what for row in ROWS])
def test_both_agree(verdicts: list[tuple[str, str]], row: Row) -> None:
    assert verdicts[ROWS.index(row)] == (row.ours, row.theirs or row.ours)


class _Address(ctypes.Structure):
    """struct sockaddr_in."""

    _fields_ = [
        ("family", ctypes.c_uint16),
        ("port", ctypes.c_uint16),
        ("ip", ctypes.c_uint32),
        ("zero", ctypes.c_char * 8),
    ]


class _Library(ctypes.Structure):
    """OPENDMARC_LIB_T."""

    _fields_ = [
        ("tld_type", ctypes.c_int),
        ("tld_source_file", ctypes.c_char * 4096),
        ("nscount", ctypes.c_int),
        ("nsaddr_list", _Address * 3),
    ]


def opendmarc(port: int, questions: list[list[str]]) -> list[int]:
    """What libopendmarc says of each author, with the domains that SPF and a signature passed for."""
    library = ctypes.CDLL(LIBRARY)
    library.opendmarc_policy_connect_init.restype = ctypes.c_void_p
    with tempfile.NamedTemporaryFile() as suffixes:
        suffixes.write(b"example\n")
        suffixes.flush()
        settings = _Library(1, suffixes.name.encode(), 1)
        ip = int.from_bytes(socket.inet_aton(ADDRESS), sys.byteorder)
        settings.nsaddr_list[0] = _Address(socket.AF_INET, socket.htons(port), ip)
        library.opendmarc_policy_library_init(ctypes.byref(settings))
    answers = []
    for question in questions:
        author, spf, signed = (each.encode() for each in question)
        context = ctypes.c_void_p(library.opendmarc_policy_connect_init(b"192.0.2.1", 4))
        library.opendmarc_policy_store_from_domain(context, author)
        if spf:
            library.opendmarc_policy_store_spf(context, spf, 1, 1, None)
        if signed:
            library.opendmarc_policy_store_dkim(context, signed, b"s", 1, None)
        library.opendmarc_policy_query_dmarc(context, author)
        answers.append(int(library.opendmarc_get_policy_to_enforce(context)))
    return answers


if __name__ == "__main__":  # in a process of its own: it is a library in C
    print(json.dumps(opendmarc(int(sys.argv[1]), json.load(sys.stdin))))
