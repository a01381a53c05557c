"""Look-ups against a scripted DNS server: which replies are believed, repeated, hard or soft."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import dns.message
import dns.opcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.control import Control, ControlUnreadable
from pyqmail.protocol.dns import BadAnswer, Kind, Mx, answers, format_query, parse_answer, parse_host, parse_literal
from pyqmail.protocol.host_names import ascii_host
from pyqmail.resolver import (
    HardFailure,
    Resolver,
    Servers,
    SoftFailure,
    parse_resolv_conf,
    parse_server,
    read_servers,
)
from tests.scripted_peers import REPO, DnsPeer, answer, dns_peer

TC = 0x0200
HOST = ("x.test.", "MX")


def resolver(peer: DnsPeer, *others: int, timeout_s: float = 0.3) -> Resolver:
    ports = (peer.port, *others)
    return Resolver(Servers(tuple(("127.0.0.1", port) for port in ports), timeout_s=timeout_s, attempts=2))


def many_mx(count: int) -> list[str]:
    return [f"10 exchanger-number-{number}.x.test." for number in range(count)]


@pytest.mark.contract("remote 4.5")
def test_small_answer_is_used() -> None:
    with dns_peer({HOST: ["10 a.test.", "20 b.test."]}) as peer:
        assert sorted(resolver(peer).mx(b"x.test"), key=str) == [Mx(10, b"a.test"), Mx(20, b"b.test")]
        assert peer.asked == [("x.test.", "MX", "udp")]


@pytest.mark.contract("remote 4.6")
@pytest.mark.parametrize("count", [20, 1500])
def test_large_datagram_is_used_whole(count: int) -> None:
    with dns_peer({HOST: many_mx(count)}) as peer:
        assert len(resolver(peer, timeout_s=20).mx(b"x.test")) == count
        assert [via for _, _, via in peer.asked] == ["udp"]


@pytest.mark.contract("remote 4.7", "remote 4.8")
def test_every_truncated_answer_is_asked_again_over_tcp() -> None:
    def cut(query: dns.message.Message, via: str) -> bytes:
        return answer(query, many_mx(100)) if via == "tcp" else answer(query, many_mx(2), flags=TC)

    with dns_peer({}) as peer:
        peer.handlers[HOST] = cut
        asker = resolver(peer, timeout_s=20)
        for _ in range(3):
            assert len(asker.mx(b"x.test")) == 100
        assert [via for _, _, via in peer.asked] == ["udp", "tcp"] * 3


@pytest.mark.contract("remote 4.9")
def test_refused_tcp_is_soft() -> None:
    with dns_peer({}, tcp=False) as peer:
        peer.handlers[HOST] = lambda query, via: answer(query, many_mx(2), flags=TC)
        with pytest.raises(SoftFailure):
            resolver(peer).mx(b"x.test")


@pytest.mark.contract("remote 4.10")
def test_stalled_tcp_is_soft_after_a_bounded_wait() -> None:
    with dns_peer({}) as peer:
        peer.handlers[HOST] = lambda query, via: None if via == "tcp" else answer(query, [], flags=TC)
        start = time.monotonic()
        with pytest.raises(SoftFailure):
            resolver(peer).mx(b"x.test")
        assert time.monotonic() - start < 5


@pytest.mark.contract("remote 4.11")
def test_truncated_and_empty_over_tcp_is_no_data() -> None:
    with dns_peer({}) as peer:
        peer.handlers[HOST] = lambda query, via: answer(query, [], flags=TC)
        with pytest.raises(HardFailure):
            resolver(peer).mx(b"x.test")


@pytest.mark.contract("remote 4.12")
@pytest.mark.parametrize("code", [1, 2, 4, None], ids=["FORMERR", "SERVFAIL", "NOTIMP", "silence"])
def test_a_server_that_dislikes_edns_is_asked_without(code: int | None) -> None:
    def dislike(query: dns.message.Message, via: str) -> bytes | None:
        if query.edns < 0:
            return answer(query, ["10 a.test."])
        return None if code is None else answer(query, [], code=code)

    with dns_peer({}) as peer:
        peer.handlers[HOST] = dislike
        assert resolver(peer).mx(b"x.test") == (Mx(10, b"a.test"),)


@pytest.mark.contract("remote 4.13", "remote 4.14", "remote 4.20")
@pytest.mark.parametrize("code", [1, 2, 4, 5], ids=["FORMERR", "SERVFAIL", "NOTIMP", "REFUSED"])
def test_failure_of_all_servers_is_soft(code: int) -> None:
    with dns_peer({}) as peer:
        peer.handlers[HOST] = lambda query, via: answer(query, [], code=code)
        with pytest.raises(SoftFailure):
            resolver(peer).mx(b"x.test")


@pytest.mark.contract("remote 4.13")
def test_next_server_is_asked_when_one_refuses() -> None:
    with dns_peer({HOST: ["10 a.test."]}) as good, dns_peer({}) as bad:
        bad.handlers[HOST] = lambda query, via: answer(query, [], code=5)
        assert resolver(bad, good.port).mx(b"x.test") == (Mx(10, b"a.test"),)


@pytest.mark.contract("remote 4.13")
def test_silence_and_no_server_are_soft() -> None:
    with dns_peer({}) as peer:
        peer.handlers[HOST] = lambda query, via: None
        with pytest.raises(SoftFailure):
            resolver(peer).mx(b"x.test")
        port = peer.port
    with pytest.raises(SoftFailure):
        Resolver(Servers((("127.0.0.1", port),), timeout_s=0.3)).mx(b"x.test")


@pytest.mark.contract("remote 4.15")
def test_no_such_name_and_no_data_are_hard() -> None:
    with dns_peer({("y.test.", "A"): ["192.0.2.1"]}) as peer:
        with pytest.raises(HardFailure) as missing:
            resolver(peer).mx(b"x.test")
        with pytest.raises(HardFailure) as empty:
            resolver(peer).mx(b"y.test")
        assert missing.value.no_name and not empty.value.no_name


@pytest.mark.contract("remote 4.16")
@pytest.mark.parametrize("cut", [1, 3])
def test_malformed_records_are_soft(cut: int) -> None:
    with dns_peer({}) as peer:

        def maim(query: dns.message.Message, via: str) -> bytes:
            query.use_edns(False)
            return answer(query, ["10 a.test."])[:-cut]

        peer.handlers[HOST] = maim
        with pytest.raises(SoftFailure):
            resolver(peer).mx(b"x.test")


@pytest.mark.contract("remote 4.17")
def test_mx_behind_a_cname_in_the_same_answer_is_used() -> None:
    with dns_peer({HOST: ["CNAME y.test.", "MX 10 a.test."]}) as peer:
        assert resolver(peer).mx(b"x.test") == (Mx(10, b"a.test"),)


@pytest.mark.contract("remote 4.18", "remote 4.23")
def test_address_behind_a_cname_in_the_same_answer_is_used() -> None:
    with dns_peer({("x.test.", "A"): ["CNAME y.test.", "A 192.0.2.1"], HOST: ["CNAME y.test."]}) as peer:
        assert resolver(peer).addresses(b"x.test", Kind.A) == (bytes((192, 0, 2, 1)),)
        with pytest.raises(HardFailure):
            resolver(peer).mx(b"x.test")


def test_compressed_names_end() -> None:
    head = bytes(4) + bytes((0, 0, 0, 1)) + bytes(4)
    for name in (b"\xc0\x0c", b"\1a\xc0\x0c", b"\xc0\xff", b"\x80"):
        with pytest.raises(BadAnswer):
            parse_answer(head + name + bytes((0, 15, 0, 1)) + bytes(6), Kind.MX)


def test_nothing_is_imported_by_a_lookup() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import pyqmail.programs.qmail_remote\n"
        "from pyqmail.protocol.dns import Kind\n"
        "from pyqmail.resolver import Resolver, Servers\n"
        "before = set(sys.modules)\n"
        'assert Resolver(Servers((("127.0.0.1", int(sys.argv[2])),))).addresses(b"x.test", Kind.A)\n'
        "print(sorted(set(sys.modules) - before))\n"
    )
    with dns_peer({("x.test.", "A"): ["NS a.test.", "TXT b", "A 192.0.2.1"]}) as peer:
        arguments = [sys.executable, "-c", code, str(REPO), str(peer.port)]
        assert subprocess.run(arguments, stdout=subprocess.PIPE, check=True).stdout == b"[]\n"


def test_wrong_number_and_wrong_question_are_not_believed() -> None:
    query = dns.message.make_query("x.test", "MX", id=7)
    other = dns.message.make_query("y.test", "MX", id=7)
    wire = query.to_wire()
    assert answers(answer(query, ["10 a.test."]), wire)
    assert not answers(answer(other, ["10 a.test."]), wire)
    assert not answers(b"\0\1" + answer(query, ["10 a.test."])[2:], wire)
    assert not answers(wire, wire)


@pytest.mark.parametrize("host", [b"", b".", b"a..b", b"a" * 64 + b".test", b"a." * 130])
def test_what_is_no_host_name_is_hard_without_a_question(host: bytes) -> None:
    with dns_peer({}) as peer:
        with pytest.raises(HardFailure):
            resolver(peer).addresses(host, Kind.A)
        assert peer.asked == []


@given(st.binary(max_size=120), st.sampled_from(list(Kind)))
def test_any_bytes_are_an_answer_or_a_bad_one(tail: bytes, kind: Kind) -> None:
    for wire in (tail, b"\0\7\x81\x80\0\0\0\2\0\0\0\0" + tail):
        try:
            parse_answer(wire, kind)
        except BadAnswer:
            continue


@pytest.mark.contract("remote 3.1")
@pytest.mark.parametrize(
    ("text", "packed"),
    [
        pytest.param(b"192.0.2.1", b"\xc0\0\2\1", id="bare"),
        pytest.param(b"[192.0.2.1]", b"\xc0\0\2\1", id="in brackets"),
        pytest.param(b"300.0.0.2", b"\x2c\0\0\2", id="octets modulo 256"),
        pytest.param(b"192.0.2.1.", None, id="a trailing dot makes it a name"),
        pytest.param(b"[192.0.2.1", None, id="half a bracket"),
        pytest.param(b"1.2.3", None, id="three numbers"),
        pytest.param(b"[IPv6:::1]", bytes(15) + b"\1", id="IPv6 as in RFC 5321"),
        pytest.param(b"[::1]", bytes(15) + b"\1", id="IPv6 in brackets"),
        pytest.param(b"[::ffff:192.0.2.1]", b"\xc0\0\2\1", id="IPv4 in IPv6 clothes"),
        pytest.param(b"x.test", None, id="a name"),
    ],
)
def test_literal(text: bytes, packed: bytes | None) -> None:
    assert parse_literal(text) == packed


@pytest.mark.parametrize(
    ("text", "server"),
    [
        (b"192.0.2.1", ("192.0.2.1", 53)),
        (b"192.0.2.1:54", ("192.0.2.1", 54)),
        (b"192.0.2.1#54", ("192.0.2.1", 54)),
        (b"2001:db8::1", ("2001:db8::1", 53)),
        (b"2001:db8::1#54", ("2001:db8::1", 54)),
        (b"[2001:db8::1]:54", ("2001:db8::1", 54)),
        (b"[2001:db8::1]", ("2001:db8::1", 53)),
    ],
)
def test_server_spelling(text: bytes, server: tuple[str, int]) -> None:
    assert parse_server(text) == server


def test_resolv_conf() -> None:
    data = (
        b"search x\n# nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver what\noptions timeout:2 attempts:3 edns0\n"
    )
    assert parse_resolv_conf(data) == Servers((("192.0.2.1", 53),), timeout_s=2, attempts=3)
    assert parse_resolv_conf(b"").servers == (("127.0.0.1", 53),)


def test_unreadable_dnsservers_is_no_silent_default(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "dnsservers").write_text("localhost\n")
    with pytest.raises(ControlUnreadable):
        read_servers(Control(str(tmp_path)))


def test_a_referral_is_no_answer() -> None:
    def refer(query: dns.message.Message, via: str) -> bytes:
        reply = dns.message.make_response(query)
        reply.authority.append(dns.rrset.from_text("x.test.", 60, "IN", "NS", "ns.x.test."))
        return reply.to_wire()

    with dns_peer({}) as lame, dns_peer({HOST: ["10 a.test."]}) as good:
        lame.handlers[HOST] = refer
        with pytest.raises(SoftFailure):
            resolver(lame).mx(b"x.test")
        assert resolver(lame, good.port).mx(b"x.test") == (Mx(10, b"a.test"),)


SOA = "ns.x.test. hostmaster.x.test. 1 60 60 60 30"


@pytest.mark.parametrize(
    ("records", "soa_ttl_s", "ttl_s"),
    [
        pytest.param([(60, "MX", "10 a.test."), (60, "MX", "20 b.test.")], None, 60, id="records of one set"),
        pytest.param([(20, "CNAME", "y.test."), (60, "MX", "10 a.test.")], None, 20, id="the least of a chain"),
        pytest.param([(60, "CNAME", "y.test.")], 40, 30, id="a chain that leads nowhere: by its SOA"),
        pytest.param([], 40, 30, id="nothing: by the SOA's minimum"),
        pytest.param([], 20, 20, id="nothing: by the SOA's own time"),
        pytest.param([], None, 0, id="nothing, and no SOA"),
        pytest.param([(2**31 + 60, "MX", "10 a.test.")], None, 0, id="a number below zero"),
    ],
)
def test_an_answer_says_how_long_it_is_good(
    records: list[tuple[int, str, str]], soa_ttl_s: int | None, ttl_s: int
) -> None:
    reply = dns.message.make_response(dns.message.make_query("x.test.", "MX"), recursion_available=True)
    wires = []
    for number, (ttl, kind, data) in enumerate(records):
        wires.append(ttl)
        reply.answer.append(dns.rrset.from_text("x.test.", 1000 + number, "IN", kind, data))
    if soa_ttl_s is not None:
        reply.authority.append(dns.rrset.from_text("x.test.", soa_ttl_s, "IN", "SOA", SOA))
    wire = reply.to_wire()
    for number, ttl in enumerate(wires):  # dnspython writes no number below zero
        wire = wire.replace((1000 + number).to_bytes(4, "big"), ttl.to_bytes(4, "big"))
    assert parse_answer(wire, Kind.MX).ttl_s == ttl_s


@pytest.mark.parametrize("size", [1, 8, 12])
def test_half_an_authority_section_decides_nothing(size: int) -> None:
    reply = dns.message.make_response(dns.message.make_query("x.test.", "MX"), recursion_available=True)
    reply.authority.append(dns.rrset.from_text("x.test.", 60, "IN", "SOA", SOA))
    start = len(dns.message.make_query("x.test.", "MX").to_wire())
    found = parse_answer(reply.to_wire()[: start + size], Kind.MX)
    assert (found.code, found.count, found.ttl_s, found.lame) == (0, 0, 0, False)


def test_questions_are_asked_together() -> None:
    """The server answers nothing before it has heard all three: one after another they would never end."""
    names = ("a.test.", "b.test.", "c.test.")
    with dns_peer({}) as peer:

        def patient(query: dns.message.Message, via: str) -> bytes | None:
            return answer(query, ["192.0.2.1"]) if {name for name, _, _ in peer.asked} >= set(names) else None

        for name in names:
            peer.handlers[(name, "A")] = patient
        found = Resolver(Servers((("127.0.0.1", peer.port),), timeout_s=2)).look_up(
            [(name.encode(), Kind.A) for name in names]
        )
        assert [answer for answer in found if isinstance(answer, Exception)] == []
        assert len(peer.asked) <= 2 * len(names) - 1


def test_more_questions_than_may_go_together_are_all_answered() -> None:
    zone = {(f"h{number}.test.", "A"): [f"192.0.2.{number}"] for number in range(100)}
    with dns_peer(zone) as peer:
        found = resolver(peer, timeout_s=20).look_up([(b"h%d.test" % number, Kind.A) for number in range(100)])
    assert [answer.addresses for answer in found if not isinstance(answer, Exception)] == [
        (bytes((192, 0, 2, number)),) for number in range(100)
    ]


def test_the_budget_bounds_all_questions_together() -> None:
    with dns_peer({}) as peer:
        for number in range(100):
            peer.handlers[(f"h{number}.test.", "A")] = lambda query, via: None
        patient = Resolver(Servers((("127.0.0.1", peer.port),), timeout_s=30, attempts=5), budget_s=0.5)
        start = time.monotonic()
        found = patient.look_up([(b"h%d.test" % number, Kind.A) for number in range(100)])
        assert all(isinstance(answer, SoftFailure) for answer in found)
        with pytest.raises(SoftFailure):
            patient.mx(b"x.test")  # nothing is left of it
        assert time.monotonic() - start < 5


def test_replies_to_others_are_not_believed() -> None:
    def forge(query: dns.message.Message, via: str) -> bytes:
        query.id ^= 1
        return answer(query, ["10 evil.test."])

    with dns_peer({}) as peer:
        peer.handlers[HOST] = forge
        with pytest.raises(SoftFailure):
            resolver(peer).mx(b"x.test")


@pytest.mark.parametrize(
    ("host", "ascii"),
    [
        ("x.test", b"x.test"),
        ("b\u00fccher.test", b"xn--bcher-kva.test"),
        ("B\u00dcCHER.test", b"xn--bcher-kva.test"),
        ("bu\u0308cher.test.", b"xn--bcher-kva.test."),
        ("stra\u00dfe.test", b"xn--strae-oqa.test"),
        ("\u65e5\u672c\u8a9e.jp", b"xn--wgv71a119e.jp"),
        ("\u2603.test", "\u2603.test".encode()),
        ("a\u3002b.test", "a\u3002b.test".encode()),
        ("\u0301x.test", "\u0301x.test".encode()),
    ],
)
def test_internationalised_names_are_asked_for_as_a_labels(host: str, ascii: bytes) -> None:
    assert ascii_host(host.encode()) == ascii


@pytest.mark.parametrize("edns", [False, True])
@pytest.mark.parametrize("dnssec", [False, True])
@pytest.mark.parametrize("kind", Kind)
def test_a_query_is_the_one_that_dnspython_would_send(kind: Kind, edns: bool, dnssec: bool) -> None:
    query = dns.message.make_query("A-b.Example.", dns.rdatatype.RdataType(kind), use_edns=False, id=700)
    if edns:
        query.use_edns(0, dns.flags.DO if dnssec else 0, payload=1232)
    assert format_query(parse_host(b"A-b.Example"), kind, number=700, edns=edns, dnssec=dnssec) == query.to_wire()


@given(st.binary(max_size=80))
def test_any_host_has_an_ascii_form_or_stays(host: bytes) -> None:
    result = ascii_host(host)
    assert result == host if host.isascii() else result.count(b".") == host.count(b".")


def test_an_internationalised_name_reaches_the_server() -> None:
    with dns_peer({("xn--bcher-kva.test.", "MX"): ["10 a.test."]}) as peer:
        assert resolver(peer).mx("b\u00fccher.test".encode()) == (Mx(10, b"a.test"),)


def test_dnsservers_replaces_the_servers_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.9\noptions timeout:3 attempts:4\n")
    system = read_servers(Control(str(tmp_path)), str(tmp_path / "resolv.conf"))
    assert system == Servers((("192.0.2.9", 53),), timeout_s=3, attempts=4)
    (tmp_path / "control" / "dnsservers").write_text("# ours\n127.0.0.1:5300\n::1\n")
    ours = read_servers(Control(str(tmp_path)), str(tmp_path / "resolv.conf"))
    assert ours == Servers((("127.0.0.1", 5300), ("::1", 53)), timeout_s=3, attempts=4)
    assert read_servers(Control(str(tmp_path)), str(tmp_path / "absent")).servers == ours.servers


@pytest.mark.contract("remote 4.7")
def test_a_tcp_answer_in_drips_is_put_together() -> None:
    with dns_peer({}, tcp=False) as peer, socket.create_server(("127.0.0.1", peer.port)) as listener:
        peer.handlers[HOST] = lambda query, via: answer(query, [], flags=TC)

        def drip() -> None:
            line, _ = listener.accept()
            with line:
                size = int.from_bytes(line.recv(2, socket.MSG_WAITALL), "big")
                query = dns.message.from_wire(line.recv(size, socket.MSG_WAITALL))
                wire = answer(query, ["10 a.test."])
                for byte in len(wire).to_bytes(2, "big") + wire:
                    line.sendall(bytes((byte,)))

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        assert Resolver(Servers((("127.0.0.1", peer.port),), timeout_s=3)).mx(b"x.test") == (Mx(10, b"a.test"),)
        thread.join(5)


def test_a_small_budget_still_reaches_the_second_server() -> None:
    with dns_peer({}) as silent, dns_peer({HOST: ["10 a.test."]}) as good:
        silent.handlers[HOST] = lambda query, via: None
        servers = Servers((("127.0.0.1", silent.port), ("127.0.0.1", good.port)), timeout_s=30)
        assert Resolver(servers, budget_s=2).mx(b"x.test") == (Mx(10, b"a.test"),)
