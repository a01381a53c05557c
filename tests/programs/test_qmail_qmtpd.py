"""qmail-qmtpd and its reader: QMTP on a socket, with a recording queue program."""

import _signal
import os
import re
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.netstring import NetstringError, NetstringTooLong, format_netstring, parse_netstrings, scan_length
from pyqmail.programs import qmail_qmtpd
from pyqmail.protocol.netstring_reader import Event, Kind
from pyqmail.protocol.qmtp import QmtpReader
from tests.programs.door import DEADLINE_S, Door, door_of

NOT_ALLOWED = b"66:Dsorry, that domain isn't in my list of allowed rcpthosts (#5.7.1),"
BAD_RECIPIENT = b"46:Dsorry, I can't handle that recipient (#5.1.3),"
BAD_SENDER = b"29:Dunacceptable sender (#5.1.7),"
TOO_BIG = b"61:Dsorry, that message size exceeds my databytes limit (#5.3.4),"


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-qmtpd") as made:
        yield made


def message(text: bytes, sender: bytes = b"a@b", *recipients: bytes) -> bytes:
    """One message on the wire."""
    return (
        format_netstring(text)
        + format_netstring(sender)
        + format_netstring(b"".join(map(format_netstring, recipients or (b"c@here.test",))))
    )


OK = rb"\d+:Kok \d+ qp \d+,"


@pytest.mark.contract("smtpd 6.11", "smtpd 6.13", "smtpd 6.3")
def test_a_message_is_queued(door: Door) -> None:
    heard, code = door.talk(message(b"\nSubject: x\n\nbody\n"))
    found = re.fullmatch(rb"(\d+):(Kok \d+ qp (\d+)),", heard)
    assert found and int(found[1]) == len(found[2]) and code == 0
    assert [int(found[3])] == door.pids()
    assert door.envelope() == b"Fa@b\0Tc@here.test\0\0" and door.text() == b"Subject: x\n\nbody\n"
    head = (door.base / "message").read_bytes()
    assert re.match(rb"Received: from unknown \(192\.0\.2\.7\)\n  by mx\.test with QMTP; \d+ ", head)


@pytest.mark.contract("smtpd 6.12", "smtpd 6.7", "smtpd 6.1")
def test_each_recipient_has_its_answer_in_order(door: Door) -> None:
    recipients = (
        b"no@elsewhere.test", b"a@here.test", b"n\0@here.test", b"n\0@elsewhere.test", b"x" * 1000, b"x" * 999,
        b"b@Here.Test",
    )  # fmt: skip
    heard, code = door.talk(message(b"\nx", b"", *recipients))
    yes = re.search(OK, heard)
    assert yes
    answers = (NOT_ALLOWED, yes[0], BAD_RECIPIENT, NOT_ALLOWED, BAD_RECIPIENT, yes[0], yes[0])
    assert heard == b"".join(answers) and code == 0
    assert door.envelope() == b"F\0Ta@here.test\0T" + b"x" * 999 + b"\0Tb@Here.Test\0\0"


@pytest.mark.contract("smtpd 6.8")
def test_a_message_for_nobody_is_dropped(door: Door) -> None:
    assert door.talk(message(b"\nx", b"", b"a@elsewhere.test", b"b@x")) == (2 * NOT_ALLOWED, 0)
    assert door.envelope() == b""


@pytest.mark.contract("smtpd 6.9")
def test_a_message_without_recipients_has_no_answer(door: Door) -> None:
    assert door.talk(format_netstring(b"\nx") + b"0:,0:," + message(b"\ny", b"", b"b@x")) == (NOT_ALLOWED, 0)
    assert len(door.pids()) == 2 and door.envelope() == b""


@pytest.mark.contract("smtpd 6.6")
@pytest.mark.parametrize("sender", [b"x" * 1000, b"a\0b@c", b"x" * 200000], ids=["long", "with a NUL", "very long"])
def test_an_unacceptable_sender_is_told_to_each_good_recipient(door: Door, sender: bytes) -> None:
    heard, code = door.talk(message(b"\nx", sender, b"a@here.test", b"b@elsewhere.test", b"c@here.test"))
    assert (heard, code) == (BAD_SENDER + NOT_ALLOWED + BAD_SENDER, 0)
    assert door.envelope() == b""


@pytest.mark.contract("smtpd 6.3", "smtpd 6.4")
@pytest.mark.parametrize(
    ("text", "stored"),
    [
        pytest.param(b"\na\r\nb\rc", b"a\r\nb\rc", id="LF: everything as it is"),
        pytest.param(b"\ra\r\nb\rc\r\r\n\nd\r", b"a\nb\rc\r\n\nd\r", id="CR: CR LF is a line end, other CRs stay"),
        pytest.param(b"\n", b"", id="LF and nothing"),
        pytest.param(b"\r", b"", id="CR and nothing"),
        pytest.param(b"\n..\n.\n\0\xff", b"..\n.\n\0\xff", id="dots mean nothing"),
    ],
)
def test_line_ends(door: Door, text: bytes, stored: bytes) -> None:
    heard, code = door.talk(message(text))
    assert re.fullmatch(OK, heard) and code == 0
    assert door.text() == stored


@pytest.mark.contract("smtpd 6.3", "smtpd 6.4", "smtpd 6.5")
@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(b"5:xhell,", 100, id="the first byte is neither LF nor CR"),
        pytest.param(b"0:,", 100, id="a message of no bytes"),
        pytest.param(b":,", 100, id="no digits are 0"),
        pytest.param(b"12a:", 100, id="no digit"),
        pytest.param(b"-1:", 100, id="a sign"),
        pytest.param(b"3000000000:", 111, id="a length that is too much"),
        pytest.param(b"200000001", 0, id="a length that might still end"),
        pytest.param(b"2:\nx;", 100, id="no comma after the message"),
        pytest.param(b"2:\nx,0:;", 100, id="no comma after the sender"),
        pytest.param(b"2:\nx,0:,0:;", 100, id="no comma after the recipients"),
        pytest.param(b"2:\nx,0:,4:1:a;,", 100, id="no comma after a recipient"),
        pytest.param(b"2:\nx,0:,4:9:a,,", 100, id="a recipient longer than all recipients"),
        pytest.param(b"2:\nx,0:,2:12,", 100, id="recipients that end in a length"),
        pytest.param(b"2:\nx,0:,4:x:a,,", 100, id="a recipient's length without digits"),
        pytest.param(b"2:\nx,0:,4:1:a", 0, id="a client that goes away"),
        pytest.param(b"", 0, id="a client that says nothing"),
    ],
)
def test_what_is_not_qmtp(door: Door, wire: bytes, code: int) -> None:
    assert door.talk(wire) == (b"", code)
    assert not (door.base / "envelope").exists() or door.envelope() == b""


def test_what_was_decided_before_a_fault_is_still_said(door: Door) -> None:
    heard, code = door.talk(message(b"\nx") + b"junk")
    assert re.fullmatch(OK, heard) and code == 100
    assert door.envelope() == b"Fa@b\0Tc@here.test\0\0"


@pytest.mark.contract("smtpd 6.10", "smtpd 6.1")
@pytest.mark.parametrize(
    ("databytes", "text", "answer"),
    [
        pytest.param("4", b"\n1234", OK, id="as many with LF"),
        pytest.param("4", b"\n12345", TOO_BIG, id="one more with LF"),
        pytest.param("4", b"\r1\r\n3\r\n", OK, id="as many with CR LF, as stored"),
        pytest.param("4", b"\r1\r\n3\r\n5", TOO_BIG, id="one more with CR LF"),
    ],
)
def test_databytes(door: Door, databytes: str, text: bytes, answer: bytes) -> None:
    door.control(databytes=databytes)
    heard, code = door.talk(message(text))
    assert re.fullmatch(answer if answer == OK else re.escape(answer), heard) and code == 0
    door.environ["DATABYTES"] = "0"
    assert re.fullmatch(OK, door.talk(message(text))[0])


def test_too_big_beats_an_unacceptable_sender(door: Door) -> None:
    door.control(databytes="1")
    assert door.talk(message(b"\n12", b"x" * 1000)) == (TOO_BIG, 0)


@pytest.mark.contract("smtpd 6.7", "smtpd 6.1")
def test_relayclient_skips_rcpthosts_and_counts_for_the_length(door: Door) -> None:
    door.environ["RELAYCLIENT"] = ".via"
    heard, _ = door.talk(message(b"\nx", b"", b"a@elsewhere.test", b"y" * 995, b"y" * 996))
    yes = re.search(OK, heard)
    assert yes and heard == yes[0] * 2 + BAD_RECIPIENT
    assert door.envelope() == b"F\0Ta@elsewhere.test.via\0T" + b"y" * 995 + b".via\0\0"


@pytest.mark.contract("smtpd 6.1")
def test_a_missing_rcpthosts_accepts_me_and_locals_only(door: Door) -> None:
    (door.base / "control" / "rcpthosts").unlink()
    heard, _ = door.talk(message(b"\nx", b"", b"a@elsewhere.test", b"b@mx.test"))
    assert heard.startswith(NOT_ALLOWED) and re.fullmatch(OK, heard[len(NOT_ALLOWED) :])


@pytest.mark.contract("smtpd 6.1")
@pytest.mark.parametrize("name", ["me", "rcpthosts", "morercpthosts.cdb", "databytes", "badmailfrom"])
def test_a_control_file_that_cannot_be_read_is_111(door: Door, name: str) -> None:
    path = door.base / "control" / name
    path.unlink(missing_ok=True)
    path.symlink_to(name)
    assert door.talk(message(b"\nx")) == (b"", 111)


@pytest.mark.parametrize(
    ("code", "answer"), [(31, b"Dmail server permanently"), (53, b"Zqq write error"), (1, b"Zqq te")]
)
def test_the_queues_exit_code_is_the_answer(door: Door, code: int, answer: bytes) -> None:
    door.queue(f"exit {code}")
    assert answer in door.talk(message(b"\nx"))[0]


def test_many_messages_in_one_session(door: Door) -> None:
    heard, code = door.talk(message(b"\nx") * 5)
    assert len(re.findall(OK, heard)) == 5 and code == 0


@pytest.mark.contract("smtpd 6.2")
def test_the_session_has_one_time_limit(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(_signal, "setitimer", lambda _kind, seconds: limits.append(seconds))
    null = os.open("/dev/null", os.O_RDONLY)
    saved = os.dup(0)
    os.dup2(null, 0)
    before = signal.getsignal(signal.SIGALRM), os.getcwd(), signal.getsignal(signal.SIGPIPE)
    try:
        environ = {os.fsencode(name): os.fsencode(value) for name, value in door.environ.items()}
        assert qmail_qmtpd.main([b"qmail-qmtpd"], environ) == 0
        assert limits == [3600, 0] and signal.getsignal(signal.SIGALRM) == before[0]
    finally:
        os.chdir(before[1])
        signal.signal(signal.SIGPIPE, before[2])
        os.dup2(saved, 0)
        os.close(saved)
        os.close(null)


@pytest.mark.contract("smtpd 6.2")
def test_a_session_that_takes_too_long_is_111(door: Door) -> None:
    ours, process = door.start()
    with ours:
        ours.sendall(message(b"\nx"))
        assert ours.recv(100)
        ours.sendall(b"5:\nab")
        process.send_signal(signal.SIGALRM)  # what the timer sends
        assert process.wait(DEADLINE_S) == 111
        try:
            assert ours.recv(100) == b""
        except ConnectionResetError:
            pass  # it had not read all that we said


def joined(events: list[Event]) -> list[Event]:
    """The events with adjacent text in one piece."""
    out: list[Event] = []
    for kind, data in events:
        if kind is Kind.TEXT and out and out[-1][0] is Kind.TEXT:
            out[-1] = (kind, (out[-1][1] or b"") + (data or b""))
        else:
            out.append((kind, data))
    return out


WIRES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda texts, junk: b"".join(message(text, sender, *rcpts) for text, sender, rcpts in texts) + junk,
        st.lists(
            st.tuples(
                st.builds(lambda first, rest: first + rest, st.sampled_from([b"\n", b"\r"]),
                          st.lists(st.sampled_from([b"\r", b"\n", b"x", b"\0"]), max_size=8).map(b"".join)),
                st.binary(max_size=6),
                st.lists(st.binary(max_size=4), max_size=3),
            ),
            max_size=3,
        ),
        st.sampled_from([b"", b"1", b"x", b"3:\n", b"9999999999:"]),
    ),
)  # fmt: skip


@given(WIRES, st.data())
def test_any_bytes_in_any_chunks_give_the_same_events(wire: bytes, data: st.DataObject) -> None:
    whole = QmtpReader()
    expected = joined(whole.feed(wire))
    pieces, events, at = QmtpReader(), [], 0
    while at < len(wire):
        size = data.draw(st.integers(1, len(wire)))
        events += pieces.feed(wire[at : at + size])
        at += size
    assert joined(events) == expected
    assert type(pieces.fault) is type(whole.fault)


@given(st.lists(st.binary(max_size=20)))
def test_netstrings_are_read_as_they_are_written(items: list[bytes]) -> None:
    assert parse_netstrings(b"".join(map(format_netstring, items))) == items


@given(st.binary(max_size=40))
def test_any_bytes_are_netstrings_or_a_fault(data: bytes) -> None:
    try:
        items = parse_netstrings(data)
    except NetstringError:
        return
    assert sum(len(item) for item in items) < max(1, len(data))


def test_lengths_stop_where_the_original_stops() -> None:
    assert scan_length(0, b"200000000:") == (200000000, 10)
    assert scan_length(0, b"2000000000:") == (2000000000, 11)
    with pytest.raises(NetstringTooLong):
        scan_length(0, b"2000000010:"[:9] + b"11:")


# What SMTP has too


@pytest.mark.parametrize("sender", [b"Eve@spam.test", b"one@bad.test"])
def test_badmailfrom_refuses_each_recipient(door: Door, sender: bytes) -> None:
    door.control(badmailfrom="@spam.test\none@bad.test")
    text = b"Dsorry, your envelope sender is in my badmailfrom list (#5.7.1)"
    heard, code = door.talk(message(b"\nx", sender, b"a@here.test", b"b@here.test") + message(b"\ny"))
    assert heard.startswith(format_netstring(text) * 2) and code == 0
    assert re.fullmatch(OK, heard[2 * len(format_netstring(text)) :])
    assert door.text() == b"y" and len(door.pids()) == 2


@pytest.mark.parametrize(("hops", "looping"), [(99, False), (100, True)])
def test_hops_are_counted_as_by_smtp(door: Door, hops: int, looping: bool) -> None:
    text = b"\r" + b"Received: x\r\n" * (hops - 1) + b"Delivered-To: y\r\n\r\nReceived: z\r\n"
    heard, code = door.talk(message(text, b"a@b", b"c@here.test", b"d@elsewhere.test"))
    loop = format_netstring(b"Dtoo many hops, this message is looping (#5.4.6)")
    first = heard.removesuffix(NOT_ALLOWED)
    assert code == 0 and (first == loop if looping else re.fullmatch(OK, first))


def test_a_recipient_that_does_not_exist_is_refused_and_a_relay_client_is_not_asked(door: Door) -> None:
    checker = door.base / "checker"
    checker.write_text('#!/bin/sh\ncase "$1" in nobody@*) exit 100;; esac\n')
    checker.chmod(0o755)
    door.control(rcptcheck=str(checker))
    del door.environ["QMAILQUEUE"]  # with a queue program of one's own nobody is asked
    recipients = (b"nobody@here.test", b"nobody@elsewhere.test")
    heard, _ = door.talk(message(b"\nx", b"a@b", *recipients))
    assert heard == format_netstring(b"Dsorry, no mailbox here by that name (#5.1.1)") + NOT_ALLOWED
    assert b"to=<nobody@here.test> reason=550_sorry,_no_mailbox" in door.log.read_bytes()


def test_each_decision_is_a_line_after_the_answer(door: Door) -> None:
    door.control(databytes="5")
    wire = message(b"\nx", b"a@b", b"c@here.test", b"d%@elsewhere.test", b"e@here.test") + message(b"\ntoo big")
    door.talk(wire + message(b"\nx", b"x" * 1000) + message(b"\nx", b"", b"y" * 1000))
    lines = door.log.read_bytes().splitlines()
    assert lines[0] == (
        b"qmail-qmtpd: refused ip=192.0.2.7 helo= from=<a@b> to=<d_@elsewhere.test> reason="
        b"553_sorry,_that_domain_isn't_in_my_list_of_allowed_rcpthosts_(#5.7.1)"
    )
    accepted = (
        rb"qmail-qmtpd: accepted ip=192\.0\.2\.7 helo= from=<a@b> to=<c@here\.test>,<e@here\.test> bytes=1 qp=\d+"
    )
    assert re.fullmatch(accepted, lines[1])
    assert lines[2].endswith(
        b"to=<c@here.test> reason=552_sorry,_that_message_size_exceeds_my_databytes_limit_(#5.3.4)"
    )
    assert lines[3].endswith(b"from=<> to=<c@here.test> reason=553_unacceptable_sender_(#5.1.7)")
    assert lines[4].endswith(b"to=<> reason=553_sorry,_I_can't_handle_that_recipient_(#5.1.3)")
    assert len(lines) == 5


def test_a_missing_rcpthosts_is_said_in_the_log(door: Door) -> None:
    (door.base / "control" / "rcpthosts").unlink()
    door.talk(message(b"\nx", b"", b"b@mx.test"))
    assert door.log.read_bytes().startswith(b"qmail-qmtpd: no control/rcpthosts: only me and locals are accepted\n")


def test_a_rule_completes_the_messages_of_relay_clients(door: Door) -> None:
    door.environ |= {"RELAYCLIENT": "", "COMPLETEHEADER": ""}
    door.talk(message(b"\nSubject: x\n\ny\n", b"a@b", b"c@here.test"))
    assert re.fullmatch(rb"Date: [^\n]* -0000\nMessage-ID: <[^\n>]*@mx\.test>\nSubject: x\n\ny\n", door.text())
