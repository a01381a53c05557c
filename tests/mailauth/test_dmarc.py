"""DMARC: the walk, the policy, alignment (RFC 9989); and who the author is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.address_list import read_list
from pyqmail.mailauth.author import PLAIN, BadAuthor, author_domain
from pyqmail.mailauth.canonical import parse_fields
from pyqmail.mailauth.dmarc import Verdict, evaluate, names_to_ask, parse_record
from pyqmail.mailauth.lookups import TemporaryFailure
from pyqmail.protocol.dns import Kind
from tests.mailauth.zone import Zone


def zone(exists: tuple[bytes, ...] = (), **records: bytes) -> Zone:
    found: dict[tuple[bytes, Kind], list[bytes]] = {
        (b"_dmarc." + name.replace("_", ".").encode(), Kind.TXT): [text] for name, text in records.items()
    }
    return Zone(found | {(name, Kind.A): [b"192.0.2.1"] for name in exists})


def judged(author: bytes, zone: Zone, *, spf: bytes = b"", signed: tuple[bytes, ...] = ()) -> Verdict:
    return evaluate(author, spf, signed, zone)


REJECT = b"v=DMARC1; p=reject"


@pytest.mark.parametrize(
    ("author", "records", "policy"),
    [
        pytest.param(b"a.example", {"a_example": REJECT}, b"reject", id="its own record"),
        pytest.param(b"x.a.example", {"a_example": REJECT}, b"reject", id="a parent's record"),
        pytest.param(b"x.a.example", {"a_example": REJECT + b"; sp=none"}, b"none", id="for subdomains another"),
        pytest.param(b"a.example", {"a_example": REJECT + b"; sp=none"}, b"reject", id="itself is no subdomain"),
        pytest.param(b"no.a.example", {"a_example": b"v=DMARC1; p=none; np=reject"}, b"reject", id="what is not there"),
        pytest.param(b"x.a.example", {"a_example": b"v=DMARC1; p=none; np=reject"}, b"none", id="what is there"),
        pytest.param(b"a.example", {"a_example": REJECT + b"; t=y"}, b"quarantine", id="a test is one step less"),
        pytest.param(b"a.example", {"a_example": b"v=DMARC1; p=quarantine; t=y"}, b"none", id="and again"),
        pytest.param(b"a.example", {"example": b"v=DMARC1; p=reject; psd=y"}, b"reject", id="a public suffix's record"),
        pytest.param(
            b"a.example", {"a_example": b"v=DMARC1; p=none", "example": REJECT}, b"none", id="the nearer one decides"
        ),
        pytest.param(
            b"a.example",
            {"a_example": b"v=DMARC1; p=bogus; rua=mailto:x@a.example"},
            b"none",
            id="a bad policy is none",
        ),
        pytest.param(b"a.example", {"a_example": b"V = DMARC1; p=reject"}, b"", id="the tag name is in lower case"),
        pytest.param(b"a.example", {"a_example": b"v=DMARC1 ;  p = reject ;"}, b"reject", id="blanks around all"),
        pytest.param(b"a.example", {"a_example": b"v=DMARC1; p=bogus"}, b"", id="and without reports nothing"),
        pytest.param(b"a.example", {"a_example": b"v=DMARC1; rua=mailto:x@a.example"}, b"none", id="no policy is none"),
        pytest.param(b"a.example", {"a_example": b"v=dmarc1; p=reject"}, b"", id="another version"),
        pytest.param(b"a.example", {"a_example": b"p=reject; v=DMARC1"}, b"", id="the version comes first"),
        pytest.param(b"a.example", {}, b"", id="no record at all"),
    ],
)
def test_the_policy_of_a_message_that_fails(author: bytes, records: dict[str, bytes], policy: bytes) -> None:
    verdict = judged(author, zone((b"x.a.example", b"a.example"), **records))
    assert (verdict.result, verdict.policy) == ((b"fail", policy) if policy else (b"none", b"none"))


def test_a_walk_asks_eight_names_at_most() -> None:
    assert list(names_to_ask(b"a.b.c.d.e.f.g.h.i.j.mail.example.com")) == [
        b"a.b.c.d.e.f.g.h.i.j.mail.example.com", b"g.h.i.j.mail.example.com", b"h.i.j.mail.example.com",
        b"i.j.mail.example.com", b"j.mail.example.com", b"mail.example.com", b"example.com", b"com",
    ]  # fmt: skip
    assert len(list(names_to_ask(b".".join([b"a"] * 8)))) == 8
    assert list(names_to_ask(b"example.com")) == [b"example.com", b"com"]


def test_psd_ends_the_walk() -> None:
    asked = zone(b_a_example=b"v=DMARC1; p=none; psd=n", a_example=REJECT)
    assert judged(b"x.b.a.example", asked).policy == b"none"
    assert b"_dmarc.a.example" not in asked.asked


@pytest.mark.parametrize(
    ("domain", "records", "aligned"),
    [
        pytest.param(b"a.example", {"a_example": REJECT}, True, id="the same"),
        pytest.param(b"m.a.example", {"a_example": REJECT}, True, id="a subdomain"),
        pytest.param(b"m.a.example", {"a_example": REJECT + b"; adkim=s"}, False, id="a subdomain, strictly"),
        pytest.param(b"b.example", {"a_example": REJECT}, False, id="another domain"),
        pytest.param(b"b.example", {"a_example": REJECT, "example": REJECT + b"; psd=y"}, False, id="one suffix"),
        pytest.param(b"example", {"a_example": REJECT, "example": REJECT + b"; psd=y"}, False, id="the suffix itself"),
        pytest.param(
            b"m.a.example", {"a_example": REJECT, "m_a_example": REJECT + b"; psd=n"}, False, id="cut off by psd=n"
        ),
    ],
)
def test_signatures_align_by_their_organization(domain: bytes, records: dict[str, bytes], aligned: bool) -> None:
    result = judged(b"a.example", zone((b"a.example",), **records), signed=(domain,)).result
    assert result == (b"pass" if aligned else b"fail")


def test_spf_aligns_by_a_mode_of_its_own() -> None:
    strict = zone(a_example=REJECT + b"; aspf=s")
    assert judged(b"a.example", strict, spf=b"m.a.example").result == b"fail"
    assert judged(b"a.example", strict, signed=(b"m.a.example",)).result == b"pass"


def test_silence_is_no_verdict() -> None:
    silent = Zone({(b"_dmarc.a.example", Kind.TXT): TemporaryFailure("silence")})
    with pytest.raises(TemporaryFailure):
        judged(b"a.example", silent)
    assert evaluate(b"a.example", b"", (), zone(a_example=REJECT), unsure=True).result == b"temperror"


@pytest.mark.parametrize(
    ("field", "domain"),
    [
        pytest.param("From: Ann <ann@A.Example>", b"a.example", id="a name and an address"),
        pytest.param("From: g: ann@a.example;", b"a.example", id="a group of one"),
        pytest.param("From: Müller, Hans <hans@a.example>", b"a.example", id="8-bit letters and a comma"),
        pytest.param("From: ann@a.example <ann@a.example>", b"a.example", id="the address twice"),
        pytest.param('From: "x@b.example" <ann@a.example>', b"a.example", id="another address quoted"),
        pytest.param("From: ann@b.example <ann@a.example>", None, id="two domains"),
        pytest.param("From: a@a.example, b@b.example", None, id="two addresses"),
        pytest.param("From: undisclosed:;", None, id="an empty group"),
        pytest.param("From: ann", None, id="no domain"),
        pytest.param("From: a@a.example\nFrom: a@a.example", None, id="two fields"),
        pytest.param("To: a@a.example", None, id="no field"),
        pytest.param("From: <ann@bücher.example>", b"xn--bcher-kva.example", id="a U-label"),
        pytest.param("From: <@relay.example:ann@a.example>", b"a.example", id="a route"),
        pytest.param("From : ann@a.example", b"a.example", id="a blank before the colon"),
    ],
)
def test_the_author_is_one_or_nobody(field: str, domain: bytes | None) -> None:
    fields = parse_fields(field.encode() + b"\n")
    if domain is not None:
        assert author_domain(fields) == domain
        return
    with pytest.raises(BadAuthor):
        author_domain(fields)


@given(st.binary(max_size=200))
def test_any_text_is_a_record_or_none(text: bytes) -> None:
    record = parse_record(b"a.example", b"v=DMARC1;" + text)
    assert record is not None and record.policy in (b"none", b"quarantine", b"reject")
    parse_record(b"a.example", text)


@given(st.from_regex(PLAIN, fullmatch=True))
def test_what_is_read_quickly_is_what_the_list_of_addresses_says(text: bytes) -> None:
    found, reading = PLAIN.fullmatch(text), read_list(text)
    assert found and reading.sure
    assert [address.text for address in reading.addresses] == [found[1] or found[2]]


@given(st.text('From:<>@,;"() ab.', max_size=40))
def test_any_from_field_has_one_author_or_none(text: str) -> None:
    try:
        assert author_domain(parse_fields(b"From: " + text.encode() + b"\n"))
    except BadAuthor:
        return
