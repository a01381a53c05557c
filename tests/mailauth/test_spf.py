"""SPF: results, bounds, macros, explanations (RFC 7208)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.mailauth.lookups import TemporaryFailure
from pyqmail.mailauth.spf import Finding, check_host, query_for
from pyqmail.mailauth.spf_record import BadRecord, parse_record
from pyqmail.protocol.dns import Kind
from tests.mailauth.zone import Records, Zone

SILENCE = TemporaryFailure("nobody answers")


def judged(records: Records, *, ip: bytes = b"192.0.2.1", sender: bytes = b"ann@a.example", **more: bytes) -> Finding:
    query = query_for(ip, sender, b"mail.a.example")
    assert query is not None
    return check_host(query, Zone(records), **more)


def record(*texts: bytes) -> dict[tuple[bytes, Kind], list[bytes] | Exception]:
    return {(b"a.example", Kind.TXT): list(texts)}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param(b"v=spf1 -all", b"fail", id="nobody may send"),
        pytest.param(b"v=spf1 ~all", b"softfail", id="nobody should"),
        pytest.param(b"v=spf1 ?all", b"neutral", id="nothing is said"),
        pytest.param(b"v=spf1", b"neutral", id="an empty record says nothing"),
        pytest.param(b"v=spf1 ip4:192.0.2.0/24 -all", b"pass", id="within the network"),
        pytest.param(b"v=spf1 ip4:192.0.3.0/24 -all", b"fail", id="beside the network"),
        pytest.param(b"v=spf1 ip4:192.0.2.1//24 -all", b"permerror", id="two slashes for one family"),
        pytest.param(b"v=spf1 ip4:192.0.2.1 bogus -all", b"permerror", id="a mistake after the match counts"),
        pytest.param(b"v=spf1 a:%{x}.example -all", b"permerror", id="a macro that is none"),
        pytest.param(b"v=spf10 -all", b"none", id="another version is no record"),
        pytest.param(b"v=spf1 redirect=nowhere.example", b"permerror", id="a redirect to nothing"),
        pytest.param(b"v=spf1 include:nowhere.example", b"permerror", id="an include of nothing"),
        pytest.param(b"v=spf1 exists:%{ir}.%{l1r-}.x.example -all", b"pass", id="macros make names"),
        pytest.param(b"v=spf1 \xff -all", b"permerror", id="8-bit bytes"),
    ],
)
def test_a_record_gives_its_result(text: bytes, result: bytes) -> None:
    more: dict[tuple[bytes, Kind], list[bytes] | Exception] = {(b"1.2.0.192.ann.x.example", Kind.A): [b"127.0.0.2"]}
    assert judged(record(text) | more).result == result


def test_two_records_are_a_mistake() -> None:
    assert judged(record(b"v=spf1 -all", b"v=spf1 +all")).result == b"permerror"


def test_silence_is_temporary_and_absence_is_none() -> None:
    assert judged({(b"a.example", Kind.TXT): SILENCE}).result == b"temperror"
    assert judged({}).result == b"none"
    assert judged(record(b"v=spf1 a -all") | {(b"a.example", Kind.A): SILENCE}).result == b"temperror"


def test_more_than_ten_lookups_are_a_mistake_and_are_not_made() -> None:
    chain = {(b"%d.example" % n, Kind.TXT): [b"v=spf1 include:%d.example" % (n + 1)] for n in range(100)}
    zone = Zone(chain | record(b"v=spf1 include:0.example -all"))
    query = query_for(b"192.0.2.1", b"ann@a.example", b"")
    assert query is not None
    assert check_host(query, zone).result == b"permerror"
    assert len(zone.asked) <= 11


def test_a_third_lookup_without_records_is_a_mistake() -> None:
    assert judged(record(b"v=spf1 a:x.example a:y.example ip4:192.0.2.1 -all")).result == b"pass"
    assert judged(record(b"v=spf1 a:x.example a:y.example a:z.example ip4:192.0.2.1 -all")).result == b"permerror"


def test_a_bounce_is_judged_by_its_helo_name() -> None:
    assert judged({(b"mail.a.example", Kind.TXT): [b"v=spf1 -all"]}, sender=b"").result == b"fail"


def test_an_address_in_ipv6_clothes_or_with_a_zone_is_what_it_is() -> None:
    assert judged(record(b"v=spf1 ip4:192.0.2.1 -all"), ip=b"::ffff:192.0.2.1").result == b"pass"
    assert judged(record(b"v=spf1 ip6:fe80::/10 -all"), ip=b"fe80::1%eth0").result == b"pass"
    assert query_for(b"unknown", b"ann@a.example", b"") is None


def test_the_domain_explains_its_refusal_and_else_the_admin_does() -> None:
    why = record(b"v=spf1 -all exp=why.a.example") | {(b"why.a.example", Kind.TXT): [b"%{i} is not ours"]}
    assert judged(why).explanation == b"192.0.2.1 is not ours"
    assert (
        judged(record(b"v=spf1 -all"), explanation=b"see http://x/?%{S}").explanation
        == b"see http://x/?ann%40a.example"
    )
    forged = record(b"v=spf1 -all exp=why.a.example") | {(b"why.a.example", Kind.TXT): [b"x\r\n250 ok"]}
    assert judged(forged).explanation == b""


def test_only_the_domain_s_own_all_is_strict() -> None:
    assert judged(record(b"v=spf1 -all")).strict
    assert not judged(record(b"v=spf1 -ip4:192.0.2.1 +all")).strict


def test_local_rules_let_in_whom_the_record_does_not() -> None:
    assert judged(record(b"v=spf1 -all"), local_rules=b"ip4:192.0.2.0/24").result == b"pass"
    assert judged(record(b"v=spf1 -all"), local_rules=b"ip4:198.51.100.1").result == b"fail"


@given(st.text("v=spf1 amxiptr:/%{}*.-+?~0123456789redctxlu", max_size=80))
def test_any_text_is_a_record_or_none(text: str) -> None:
    try:
        parse_record(b"v=spf1 " + text.encode())
    except BadRecord:
        return


@given(st.text("amxip46:/%{slodiphv}.-_09 include:b.example", max_size=60))
def test_any_record_has_one_of_the_seven_results(text: str) -> None:
    results = {b"none", b"neutral", b"pass", b"fail", b"softfail", b"temperror", b"permerror"}
    assert judged(record(b"v=spf1 " + text.encode())).result in results
