"""Messages and records that DMARC is evaluated with beside others, and what they say of each; and what we do.

opendmarc 1.4 and rspamd 3.4 are of RFC 7489 and have lists of public suffixes, here ``example`` alone; we are of
RFC 9989 and walk. Where one of them says something else, a comment has the section that tells who is right.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pyqmail.mailauth.dmarc import evaluate
from pyqmail.mailauth.lookups import CachedLookups
from pyqmail.resolver import Resolver, Servers
from tests.loopback import free_port
from tests.nameserver import nameserver

ADDRESS = "127.0.0.1"
REJECT = "v=DMARC1; p=reject"


class Row(NamedTuple):
    """One message: names are below the row's own domain, ``.`` is that; ``ours``: a result, or what a fail asks for."""

    what: str
    author: str
    records: dict[str, str]
    spf: str = ""  # the domain that passed
    signed: str = ""
    ours: str = "reject"
    opendmarc: str = ""  # where it is another verdict
    rspamd: str = ""  # several where its versions differ


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
    Row("the policy in capitals", ".", {".": "v=DMARC1; p=REJECT"}),
    Row("an unknown tag", ".", {".": REJECT + "; other=x"}),
]
ROWS += [
    # Blanks may stand on both sides of the sign (section 4.8): rspamd 4.1 reads no further than one before it.
    Row("blanks around", ".", {".": "v=DMARC1;  p = reject ;"}, rspamd="reject nothing"),
    Row("a record between is passed over", "b.a.", {"a.": "v=DMARC1; p=quarantine", ".": REJECT}),
    Row("a policy that is none", ".", {".": "v=DMARC1; p=bogus"}, ours="none"),
    Row("the version in small letters", ".", {".": "v=dmarc1; p=reject"}, ours="none"),
    # There is no pct any more (appendix A.6): rspamd does with such a share what one step less asks for.
    Row("a share of the mail", ".", {".": REJECT + "; pct=0"}, rspamd="quarantine"),
    # What is wrong in a tag leaves it at its default (section 4.8): to rspamd there is no policy then.
    Row("a mode that is none", ".", {".": REJECT + "; adkim=x"}, signed="m.", ours="pass", rspamd="none"),
    Row("a tag without a name", ".", {".": REJECT + "; ="}),
    Row("beside something else", ".", {".": REJECT, ".+": "something else"}),
    # Strict is the same domain (RFC 9989 section 4.7, adkim and aspf): opendmarc takes parents and children.
    Row("strict about SPF", ".", {".": REJECT + "; aspf=s"}, spf="m.", opendmarc="pass"),
    Row("strict about signatures", ".", {".": REJECT + "; adkim=s"}, signed="m.", opendmarc="pass"),
    Row("strict, and the other way round", "m.", {".": REJECT + "; adkim=s"}, signed=".", opendmarc="pass"),
    # Several records are none (RFC 9989 section 4.10, as RFC 7489 section 6.6.3): opendmarc takes one.
    Row("two records", ".", {".": REJECT, ".+": REJECT}, ours="none", opendmarc="reject"),
    # The version comes first (section 4.7, as RFC 7489 section 6.3): opendmarc takes it anywhere.
    Row("the version comes later", ".", {".": "p=reject; v=DMARC1"}, ours="none", opendmarc="reject"),
    # Without a policy that is one, but with reports, it is none (section 4.10.1, as RFC 7489 section 6.6.3).
    Row("reports and no policy", ".", {".": "v=DMARC1; rua=mailto:x@example.com"}, ours="nothing", opendmarc="none"),
    Row(
        "reports and a bad policy",
        ".",
        {".": "v=DMARC1; p=x; rua=mailto:x@example.com"},
        ours="nothing",
        opendmarc="none",
        rspamd="none",
    ),
    # t, np and psd (section 4.7) have come after opendmarc 1.4 and rspamd 3.4.
    Row("under test", ".", {".": REJECT + "; t=y"}, ours="quarantine", opendmarc="reject", rspamd="reject"),
    Row(
        "a domain that is not there", "no.", {".": "v=DMARC1; p=none; np=reject"}, opendmarc="nothing", rspamd="nothing"
    ),
    Row("an organization of its own", "a.", {"a.": REJECT + "; psd=n"}, signed=".", opendmarc="pass", rspamd="pass"),
    Row(
        "below a public suffix",
        "a.",
        {".": "v=DMARC1; p=none; psd=y", "a.": REJECT},
        signed="b.",
        opendmarc="pass",
        rspamd="pass",
    ),
]


def domain(row: Row, name: str) -> str:
    """A name of ``row`` in full."""
    if name == "other.example":
        return name
    return name.removesuffix(".") + ("." if name != "." else "") + f"r{ROWS.index(row)}.example" if name else ""


@contextmanager
def served() -> Iterator[int]:
    """The port of a name server that has all records."""
    lines, port = [], free_port()
    for row in ROWS:
        for name, record in row.records.items():
            again = " " * name.count("+")  # a set has no record twice
            lines.append(f'_dmarc.{domain(row, name.removesuffix("+"))}. TXT "{record}{again}"')
        if row.author != "no.":
            lines.append(f"{domain(row, row.author)}. A 192.0.2.1")
    with nameserver(ADDRESS, {"example": lines}, port=port):
        yield port


def ours(row: Row, port: int) -> str:
    """What we say of ``row``."""
    lookups = CachedLookups(Resolver(Servers(((ADDRESS, port),))).look_up)
    author, spf, signed = (domain(row, name).encode() for name in (row.author, row.spf, row.signed))
    verdict = evaluate(author, spf, [signed] if signed else [], lookups)
    asked = "nothing" if verdict.policy == b"none" else verdict.policy.decode()
    return asked if verdict.result == b"fail" else verdict.result.decode()
