"""What tcpserver asks before a program runs: rules of any size, damaged ones, log fields, and DNS answers for names."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyqmail.formats.cdb import write_cdb
from pyqmail.protocol.dns import BadAnswer, Kind, format_query, name_text, parse_answer, parse_host
from pyqmail.tcp.admission import FIELD_MAX, IN_MEMORY_MAX, Dropped, Rules, plain_address, visible
from pyqmail.tcp.remote_name import packed, reversed_labels
from pyqmail.tcp.tcprules import parse_rules


def rules(path: Path, text: bytes, *, optional: bool = False) -> Rules:
    write_cdb(str(path), parse_rules(text))
    return Rules(str(path).encode(), optional=optional)


@pytest.mark.parametrize("more", [0, 5000], ids=["a small file, kept as a mapping", "a large one, read where needed"])
@pytest.mark.contract("tcp 3")
def test_rules_of_any_size_decide_alike(tmp_path: Path, more: int) -> None:
    filler = b"".join(b"172.16.%d.%d:deny\n" % divmod(number, 250) for number in range(more))
    text = b"1.2.3.4:deny\n1.2.3.:allow,A=/1/\n1.2.3.:allow,A=/2/\n" + filler + b":allow,B=//\n"
    asked = rules(tmp_path / "r.cdb", text)
    assert ((tmp_path / "r.cdb").stat().st_size > IN_MEMORY_MAX) is bool(more)
    for _ in range(2):
        assert asked.decide(b"1.2.3.4", None, None).deny
        assert asked.decide(b"1.2.3.5", None, None).variables == ((b"A", b"1"),)
        assert asked.decide(b"9.9.9.9", b"h", b"i").variables == ((b"B", b""),)
        assert asked.decide(b"172.16.3.7", None, None).deny is bool(more)


@pytest.mark.contract("tcp 2.3", "tcp 2.4", "tcp 7.3")
def test_another_file_counts_at_once_and_a_missing_one_drops(tmp_path: Path) -> None:
    path = tmp_path / "r.cdb"
    asked, optional = rules(path, b":deny\n"), rules(path, b":deny\n", optional=True)
    assert asked.decide(b"1.2.3.4", None, None).deny
    write_cdb(str(path), parse_rules(b":allow,A=/b/\n"))
    assert asked.decide(b"1.2.3.4", None, None).variables == ((b"A", b"b"),)
    path.unlink()
    with pytest.raises(Dropped, match=r"unable to read .*r\.cdb: file does not exist"):
        asked.decide(b"1.2.3.4", None, None)
    assert not optional.decide(b"1.2.3.4", None, None).deny
    path.mkdir()
    for each in (asked, optional):
        with pytest.raises(Dropped):
            each.decide(b"1.2.3.4", None, None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(st.binary(max_size=40), st.integers(0, 2400), st.integers(0, 2400))
def test_a_damaged_file_drops_or_decides_and_raises_nothing_else(
    tmp_path: Path, noise: bytes, place: int, size: int
) -> None:
    path = tmp_path / "r.cdb"
    write_cdb(str(path), parse_rules(b"1.2.3.:deny\n10.:allow,RELAYCLIENT=//\n:deny\n"))
    data = path.read_bytes()
    place = min(place, len(data))
    path.write_bytes((data[:place] + noise + data[place + len(noise) :])[: max(size, 1)])
    asked = Rules(str(path).encode(), optional=False)
    for client in (b"9.9.9.9", b"1.2.3.4", b"::1"):
        try:
            decision = asked.decide(client, b"h.test", b"joe")
        except Dropped:
            continue
        assert decision.deny or path.read_bytes() != data


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, b""),
        (b"", b""),
        (b"mx.example~!", b"mx.example~!"),
        (b"a:b%c d\x7f\xff\n", b"a?b?c?d???"),
        (b"x" * (FIELD_MAX - 1), b"x" * (FIELD_MAX - 1)),
        (b"x" * FIELD_MAX, b"x" * FIELD_MAX + b"..."),
    ],
)
@pytest.mark.contract("tcp 2")
def test_fields_of_a_log_line(text: bytes | None, shown: bytes) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("ip", "plain"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:0:1", "::ffff:0:1"),
    ],
)
def test_addresses_are_shown_without_zone_and_ipv4_as_itself(ip: str, plain: str) -> None:
    assert plain_address(ip) == plain


def test_addresses_in_reverse() -> None:
    assert reversed_labels(packed("192.0.2.10")) == b"10.2.0.192"
    assert reversed_labels(packed("::ffff:192.0.2.10")) == b"10.2.0.192"
    assert reversed_labels(packed("2001:db8::af")) == b"f.a" + b".0" * 22 + b".8.b.d.0.1.0.0.2"


@pytest.mark.contract("tcp 1.4")
def test_names_are_in_lower_case_and_odd_bytes_are_spelled() -> None:
    assert name_text([b"Mx-1", b"EXAMPLE_x", b"org"]) == b"mx-1.example_x.org"
    assert name_text([b"a.b \0\xff:", b"org"]) == rb"a\056b\040\000\377\072.org"
    assert name_text([]) == b""


@given(st.binary(max_size=120), st.sampled_from([Kind.PTR, Kind.TXT]))
def test_no_answer_raises_anything_but_a_bad_answer(tail: bytes, kind: Kind) -> None:
    query = format_query(parse_host(b"1.test"), kind, number=7, edns=False)
    wire = query[:2] + b"\x81\x80" + query[4:6] + b"\0\2\0\0\0\0" + query[12:] + tail
    head = b"\xc0\x0c" + int(kind).to_bytes(2, "big") + b"\0\1\0\0\0\1" + len(tail).to_bytes(2, "big")
    for data in (wire, query[:2] + b"\x81\x80" + query[4:6] + b"\0\1\0\0\0\0" + query[12:] + head + tail):
        try:
            answer = parse_answer(data, kind)
        except BadAnswer:
            continue
        assert all(b"\0" not in name for name in answer.names)
