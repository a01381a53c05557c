"""Targets for what strangers write to be believed: records, keys, signed messages, Authentication-Results."""

import itertools
from collections.abc import Iterable
from contextlib import suppress

from pyqmail.incoming.sender_results import Judgement, without_results_of
from pyqmail.mailauth import dmarc, keys, results, spf, spf_record, tags
from pyqmail.mailauth.author import BadAuthor, author_domain
from pyqmail.mailauth.canonical import BadHeader, parse_fields, split_message
from pyqmail.mailauth.judgement import judge_message, judge_sender
from pyqmail.mailauth.list_author import list_header
from pyqmail.mailauth.lookups import Absent
from pyqmail.mailauth.report_destinations import destinations
from pyqmail.mailauth.report_events import parse_line
from pyqmail.mailauth.srs import BadSrs, Srs
from pyqmail.mailauth.srs_address import kind_of
from pyqmail.protocol.dns import Kind, Mx

SPF_RESULTS = (b"none", b"neutral", b"pass", b"fail", b"softfail", b"temperror", b"permerror")
ASKED_MAX = 120  # questions about one message
FIELD = b"Authentication-Results:"


class Hostile:
    """A Lookups that answers with the input, whatever is asked."""

    def __init__(self, data: bytes) -> None:
        self._texts = tuple(data.split(b"\0"))
        self.asked = 0

    def _count(self) -> None:
        self.asked += 1
        assert self.asked <= ASKED_MAX

    def ahead(self, names: Iterable[bytes]) -> None:
        """Each of them counts when it is wanted."""

    def texts(self, name: bytes) -> tuple[bytes, ...]:
        self._count()
        if not self._texts[0]:
            raise Absent
        return self._texts

    def addresses(self, name: bytes, kind: Kind) -> tuple[bytes, ...]:
        self._count()
        return (b"\xc0\0\2\7" if kind is Kind.A else bytes(16),)

    def exchangers(self, name: bytes) -> tuple[Mx, ...]:
        self._count()
        return (Mx(10, b"mx.host.example"), Mx(20, b""))

    def names(self, reverse: bytes) -> tuple[bytes, ...]:
        self._count()
        return (b"c.host.example", b"host.example")


def sender_records(data: bytes) -> None:
    """Records of SPF, DKIM and DMARC from a hostile name server, for any sender: a result, in few questions."""
    with suppress(tags.BadTags):
        tags.parse_tags(data)
    with suppress(spf_record.BadRecord):
        spf_record.parse_record(b"v=spf1 " + data)
    for kind in (b"rsa", b"ed25519"):
        with suppress(keys.BadKey):
            keys.parse_key(data, kind)
    record = dmarc.parse_record(b"host.example", data)
    assert record is None or record.policy in dmarc.POLICIES
    for answers in (data, b"v=spf1 " + data):
        lookups = Hostile(answers)
        about = {b"ip": b"192.0.2.7", b"sender": b"ann@host.example", b"helo": b"c.example", b"rules": data[:100]}
        answer = dict(judge_sender(about, lookups))
        assert answer[b"spf"] in SPF_RESULTS
        assert all(0x20 <= byte <= 0x7E for byte in answer[b"explanation"])
    query = spf.query_for(data[:40], data[40:200], data[:60])
    found = spf.Finding(b"none") if query is None else spf.check_host(query, Hostile(b"v=spf1 exists:%{s}.%{h} -all"))
    assert found.result in SPF_RESULTS


def signed_messages(data: bytes) -> None:
    """A message with any header, its keys and policies the input, too: a result, the same for any pieces."""
    pieces = [data[at : at + 1] for at in range(min(len(data), 400))] + [data[400:]]
    judged = []
    for each in ([data], pieces):
        answer = judge_message({b"spf": b"none"}, each, Hostile(data))
        judgement = Judgement({b"spf": b"none"}, answer)
        assert judgement.dmarc in (b"pass", b"fail", b"none", b"permerror", b"temperror")
        assert not judgement.unsure  # every question had its answer
        judged.append(answer)
    assert judged[0] == judged[1]
    with suppress(BadHeader, BadAuthor):
        head, _ = split_message([data])
        assert author_domain(parse_fields(head))


def results_fields(data: bytes) -> None:
    """Authentication-Results as others write it; what claims our name goes, in whatever pieces it comes."""
    name, found = results.parse_results(data)
    assert name == results.authserv_id(data)
    again = results.parse_results(results.format_results(b"mx.test", found).partition(b":")[2])
    assert again[0] == b"mx.test"
    written = results.Result(b"dkim", b"fail", [(b"header.d", data)], reason=data, comment=data).format()
    assert written.isascii() and b"\n" not in written and b"\r" not in written
    text = b"A: b\n" + FIELD + b" " + data
    whole = b"".join(without_results_of(b"mx.test", [text]))
    assert whole == b"".join(without_results_of(b"mx.test", slices(text)))
    again_left_out = b"".join(without_results_of(b"mx.test", [whole]))
    assert again_left_out == whole


def srs_addresses(data: bytes) -> None:
    """A sender that is forwarded, and an address that comes back: only what was made here comes back, as it was."""
    srs = Srs(b"srs.test", (b"x",))
    for local in (data, b"SRS0=" + data, b"SRS1=" + data):
        with suppress(BadSrs):
            raise AssertionError(srs.reverse(local, 0.0))
    made = srs.forward(data + b"@host.example", 0.0)
    if made != data + b"@host.example":
        back = srs.reverse(made.removesuffix(b"@srs.test"), 0.0)
        assert kind_of(data) == b"1" or back.lower() == data.lower() + b"@host.example"


def reports_and_lists(data: bytes) -> None:
    """Where a record sends reports, what a kept line says, and a list's From: nothing raises, one From stays one."""
    record = dmarc.parse_record(b"host.example", b"v=DMARC1; rua=" + data)
    if record is not None:
        assert all(b"\n" not in each.address for each in destinations(record, Hostile(data)))
    parse_line(data)
    written = list_header(b"From: " + data + b"\n", b"list@lists.example", b"list", Hostile(b"v=DMARC1; p=reject"))
    with suppress(BadHeader, BadAuthor):
        assert author_domain(parse_fields(written))


def slices(text: bytes) -> Iterable[bytes]:
    """``text`` in pieces of 1, 2, 3 and more bytes."""
    at = 0
    for size in itertools.count(1):
        if at >= len(text):
            return
        yield text[at : at + size]
        at += size
