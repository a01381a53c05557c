"""DMARC aggregate reports by value: what is kept, the XML, and who gets it."""

import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.mailauth import report_events
from pyqmail.mailauth.aggregate_report import NAMESPACE, Period, Reporter, by_domain, format_report
from pyqmail.mailauth.dkim import Outcome
from pyqmail.mailauth.dmarc import parse_record
from pyqmail.mailauth.judgement import format_outcome
from pyqmail.mailauth.lookups import TemporaryFailure
from pyqmail.mailauth.report_destinations import Destination, destinations, parse_uri
from pyqmail.mailauth.report_events import Event, append, event_of, parse_line
from pyqmail.protocol.dns import Kind
from tests.mailauth.zone import Zone

REPORTER = Reporter("mx.test", "dmarc@mx.test", "pyqmail")
PERIOD = Period(1764288000, 1764374399)
GOOD = Event("a.test", "a.test", "192.0.2.1", "none", "", True, False, "b.test", "softfail", (("a.test", "s", "pass"),))
BAD = Event("a.test", "x.a.test", "2001:db8::1", "reject", "", False, False, "", "none", ())
QUESTION = {b"ip": b"192.0.2.1", b"spf": b"pass", b"domain": b"a.test", b"behavior": b"3"}
PASSED = [(b"dmarc", b"pass"), (b"policy", b"none")]
FAILED = [(b"author", b"a.test"), (b"dmarc", b"fail"), (b"policy", b"reject"), (b"reporting", b"a.test")]

# Of each element what is in it and how often, in the order of the tables of RFC 9990.
SHAPE = {
    "feedback": "version1 report_metadata1 policy_published1 record+",
    "report_metadata": "org_name1 email1 report_id1 date_range1 generator?",
    "date_range": "begin1 end1",
    "policy_published": "domain1 discovery_method? p1 sp? np? adkim? aspf? testing?",
    "record": "row1 identifiers1 auth_results1",
    "row": "source_ip1 count1 policy_evaluated1",
    "policy_evaluated": "disposition1 dkim1 spf1 reason?",
    "reason": "type1",
    "identifiers": "envelope_from? header_from1",
    "auth_results": "dkim* spf1",
    "auth_results/dkim": "domain1 selector1 result1",
    "auth_results/spf": "domain1 scope? result1",
}


def check_shape(element: ElementTree.Element, path: str = "") -> None:
    """Each element has the children that it may have, in their order, all in the namespace."""
    name = element.tag.removeprefix(f"{{{NAMESPACE}}}")
    assert name != element.tag
    shape = SHAPE.get(f"{path}/{name}", SHAPE.get(name))
    children = [child.tag.rpartition("}")[2] for child in element]
    if shape is None:
        assert children == []
        return
    for word in shape.split():
        count = 0
        while children[:1] == [word[:-1]]:
            children.pop(0)
            count += 1
        assert {"1": count == 1, "?": count <= 1, "+": count >= 1, "*": True}[word[-1]], (name, word, count)
    assert children == [], (name, children)
    for child in element:
        check_shape(child, name)


def report(*events: Event, record: bytes = b"v=DMARC1; p=reject; sp=none; adkim=s; t=y") -> ElementTree.Element:
    """The XML about these events, its shape checked."""
    found = parse_record(b"a.test", record)
    assert found is not None
    made = ElementTree.fromstring(format_report(found, by_domain(events)["a.test"], PERIOD, REPORTER))
    check_shape(made)
    return made


def text(element: ElementTree.Element, path: str) -> list[str | None]:
    """What is in the elements at the end of ``path``."""
    whole = ".//" + "/".join(f"{{{NAMESPACE}}}{name}" for name in path.split("/"))
    return [each.text for each in element.findall(whole)]


def test_a_report() -> None:
    made = report(GOOD, BAD, GOOD)
    assert text(made, "policy_published/p") + text(made, "policy_published/sp") == ["reject", "none"]
    assert text(made, "adkim") + text(made, "aspf") + text(made, "testing") + text(made, "np") == [
        "s",
        "r",
        "y",
        "none",
    ]
    assert text(made, "count") == ["2", "1"] and text(made, "source_ip") == ["192.0.2.1", "2001:db8::1"]
    assert text(made, "disposition") == ["none", "reject"]
    assert text(made, "policy_evaluated/dkim") == ["pass", "fail"] and text(made, "auth_results/dkim/result") == [
        "pass"
    ]
    assert text(made, "report_id") == ["1764288000.a.test.mx.test@mx.test"]


@given(st.text(max_size=300), st.text(max_size=300))
def test_what_strangers_wrote_makes_no_other_xml(author: str, selector: str) -> None:
    signatures = ((author, selector, author),)
    report(Event("a.test", author, author, "none", "other", False, False, author, "none", signatures))


@pytest.mark.parametrize(
    ("question", "answer", "white", "done", "reason"),
    [
        pytest.param({}, [], b"", "reject", "", id="refused as asked"),
        pytest.param({b"behavior": b"1"}, [], b"", "none", "local_policy", id="only said"),
        pytest.param({}, [(b"policy", b"quarantine")], b"", "none", "local_policy", id="not marked below 4"),
        pytest.param({b"behavior": b"4"}, [(b"policy", b"quarantine")], b"", "quarantine", "", id="marked"),
        pytest.param({b"behavior": b"4"}, [(b"policy", b"quarantine"), (b"testing", b"y")], b"", "quarantine",
                     "policy_test_mode", id="under test"),
        pytest.param({}, [], b"list.test", "none", "local_policy", id="signed by somebody in dmarcwhite"),
        pytest.param({}, [*PASSED, (b"published", b"reject")], b"", "pass", "", id="it passed, and others would not"),
        pytest.param({}, [*PASSED, (b"published", b"none")], b"", "none", "", id="it passed, as all would"),
    ],
)  # fmt: skip
def test_what_was_done_and_why(
    question: dict[bytes, bytes], answer: list[tuple[bytes, bytes]], white: bytes, done: str, reason: str
) -> None:
    signature = format_outcome(Outcome(b"pass", b"list.test", b"s", b"", b"rsa-sha256", b""))
    found = event_of(QUESTION | question, [*FAILED, *answer, (b"dkim", signature)], frozenset((white,)))
    assert found is not None and (found.disposition, found.reason) == (done, reason)


def test_nobody_who_does_not_ask_is_kept() -> None:
    assert event_of(QUESTION, [*FAILED, (b"reporting", b"")], frozenset()) is None
    assert event_of(QUESTION, [*FAILED, (b"dmarc", b"temperror")], frozenset()) is None
    assert event_of(QUESTION | {b"ip": b""}, FAILED, frozenset()) is None


def test_events_survive_the_disk_and_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for event in (GOOD, BAD):
        append(str(tmp_path), event, now)
    (day,) = report_events.days(str(tmp_path))
    assert list(report_events.read(str(tmp_path / day))) == [GOOD, BAD]
    monkeypatch.setattr(report_events, "DAY_MAX", (tmp_path / day).stat().st_size)
    append(str(tmp_path), GOOD, now)
    assert len(list(report_events.read(str(tmp_path / day)))) == 2
    append(str(tmp_path / "missing"), GOOD, now)


@given(st.binary(max_size=200))
def test_a_line_that_is_no_event_is_passed_over(line: bytes) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (b"mailto:d@a.test", Destination(b"d@a.test", b"a.test")),
        (b"MAILTO:d%2Bx@A.test!10m", Destination(b"d+x@A.test", b"a.test")),
        (b"mailto:d@a.test?subject=x", Destination(b"d@a.test", b"a.test")),
        (b"https://a.test/", None),
        (b"mailto:d@a.test%0aBcc:x@y.test", None),
        (b"mailto:a@b@c.test", None),
        (b"mailto:d@", None),
    ],
)
def test_uris(uri: bytes, expected: Destination | None) -> None:
    assert parse_uri(uri) == expected


ZONE = Zone({
    (b"_dmarc.a.test", Kind.TXT): [b"v=DMARC1; p=none"],
    (b"a.test._report._dmarc.takes.test", Kind.TXT): [b"v=DMARC1"],
    (b"a.test._report._dmarc.other.test", Kind.TXT): [b"v=DMARC1; rua=mailto:instead@other.test"],
    (b"a.test._report._dmarc.sly.test", Kind.TXT): [b"v=DMARC1; rua=mailto:victim@victim.test"],
    (b"a.test._report._dmarc.odd.test", Kind.TXT): [b"yes"],
    (b"a.test._report._dmarc.down.test", Kind.TXT): TemporaryFailure(),
})  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        pytest.param(b"mailto:d@a.test", [b"d@a.test"], id="its own address"),
        pytest.param(b"mailto:d@sub.a.test", [b"d@sub.a.test"], id="one of its organization"),
        pytest.param(b"mailto:d@takes.test", [b"d@takes.test"], id="a host that takes them"),
        pytest.param(b"mailto:d@other.test", [b"instead@other.test"], id="a host that wants them elsewhere"),
        pytest.param(b"mailto:d@sly.test", [], id="a host that would have them sent to somebody else"),
        pytest.param(b"mailto:d@odd.test", [], id="a record that is none"),
        pytest.param(b"mailto:d@victim.test", [], id="a host that has not agreed"),
    ],
)
def test_reports_go_to_whom_they_were_asked_for_by(uri: bytes, expected: list[bytes]) -> None:
    record = parse_record(b"a.test", b"v=DMARC1; p=none; rua=" + uri)
    assert record is not None
    assert [each.address for each in destinations(record, ZONE)] == expected


def test_an_outage_is_no_refusal() -> None:
    record = parse_record(b"a.test", b"v=DMARC1; p=none; rua=mailto:d@down.test")
    assert record is not None
    with pytest.raises(TemporaryFailure):
        destinations(record, ZONE)
