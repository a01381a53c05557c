"""qmail-qmqpd: one message by QMQP, and its reader."""

import re
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.netstring import format_netstring
from pyqmail.protocol.netstring_reader import Kind
from pyqmail.protocol.qmqp import QmqpReader
from tests.programs.door import DEADLINE_S, Door, door_of
from tests.programs.test_qmail_qmtpd import OK, joined
from tests.waiting import wait_for

BAD_ADDRESS = b"51:Dsorry, I can't accept addresses like that (#5.1.3),"


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-qmqpd") as made:
        yield made


def request(text: bytes, sender: bytes, *recipients: bytes) -> bytes:
    """One message on the wire."""
    return format_netstring(b"".join(map(format_netstring, (text, sender, *recipients))))


@pytest.mark.contract("smtpd 7")
def test_a_message_is_queued_as_it_is(door: Door) -> None:
    text = b"Subject: x\r\n\n\0\xff..\n.\n"
    heard, code = door.talk(request(text, b"a@b", b"c@anywhere.test", b"d"))
    found = re.fullmatch(rb"(\d+):(Kok \d+ qp (\d+)),", heard)
    assert found and int(found[1]) == len(found[2]) and code == 0
    assert [int(found[3])] == door.pids()
    assert door.envelope() == b"Fa@b\0Tc@anywhere.test\0Td\0\0" and door.text() == text
    head = (door.base / "message").read_bytes()
    assert re.match(rb"Received: from unknown \(192\.0\.2\.7\)\n  by mx\.test with QMQP; \d+ ", head)


@pytest.mark.contract("smtpd 7")
def test_no_recipients_and_no_text_are_accepted(door: Door) -> None:
    heard, code = door.talk(request(b"", b""))
    assert re.fullmatch(OK, heard) and code == 0 and door.envelope() == b"F\0\0"


@pytest.mark.contract("smtpd 7")
@pytest.mark.parametrize("bad", [b"x" * 1000, b"a\0b"], ids=["long", "with a NUL"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_address_refuses_the_message(door: Door, bad: bytes, place: int) -> None:
    addresses = [b"a@b", b"c@d", b"x" * 999]
    addresses[place] = bad
    assert door.talk(request(b"x", *addresses)) == (BAD_ADDRESS, 0)
    assert door.envelope() == b""


@pytest.mark.contract("smtpd 7")
@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"20:3:abc,0:,", 0, id="a client that goes away"),
        pytest.param(b"10:3:abc,0:", 0, id="a client that goes away before the last commas"),
        pytest.param(b"5:3:abc,0:,,", 100, id="the message reaches over the end"),
        pytest.param(b"8:3:abc,1:a,,", 100, id="the sender reaches over the end"),
        pytest.param(b"9:3:abc,0:,;", 100, id="no last comma"),
        pytest.param(b"9:3:abc;0:,,", 100, id="no comma after the message"),
        pytest.param(b"x", 100, id="no length"),
        pytest.param(b"0:,", 100, id="an empty outer netstring"),
        pytest.param(b"0" * 100 + b"9:", 100, id="an endless length"),
        pytest.param(b"3000000000:", 111, id="a length that is too much"),
        pytest.param(b"99:3000000000:", 111, id="an inner length that is too much"),
    ],
)
def test_what_is_not_qmqp(door: Door, wire: bytes, code: int) -> None:
    assert door.talk(wire) == (b"", code)
    assert not (door.base / "envelope").exists() or door.envelope() == b""


@pytest.mark.contract("smtpd 7")
def test_no_control_file_and_no_variable_matters(door: Door) -> None:
    door.control(rcpthosts="", databytes="1")
    (door.base / "control" / "me").unlink()
    door.environ |= {"DATABYTES": "1", "RELAYCLIENT": ".via"}
    heard, _ = door.talk(request(b"long enough", b"a@b", b"c@d"))
    assert re.fullmatch(OK, heard) and door.envelope() == b"Fa@b\0Tc@d\0\0"


@pytest.mark.contract("smtpd 7")
def test_without_a_home_it_is_111(door: Door) -> None:
    door.environ["QMAIL_HOME"] = str(door.base / "missing")
    assert door.talk(request(b"x", b"", b"c")) == (b"", 111)


@pytest.mark.contract("smtpd 7")
def test_a_session_that_takes_too_long_is_111(door: Door) -> None:
    ours, process = door.start()
    with ours:
        ours.sendall(request(b"x", b"")[:-1])
        wait_for((door.base / "message").exists, "the queue program")
        process.send_signal(signal.SIGALRM)  # what the timer sends
        assert process.wait(DEADLINE_S) == 111


@pytest.mark.parametrize(("code", "answer"), [(31, b"Dmail server permanently"), (53, b"Zqq write error")])
def test_the_queues_exit_code_is_the_answer(door: Door, code: int, answer: bytes) -> None:
    door.queue(f"exit {code}")
    assert answer in door.talk(request(b"x", b"a", b"b"))[0]


@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda text, sender, rcpts, cut, junk: request(text, sender, *rcpts)[: None if cut else -2] + junk,
            st.binary(max_size=9), st.binary(max_size=9), st.lists(st.binary(max_size=9)), st.booleans(),
            st.binary(max_size=3),
        ),
    ),
    st.data(),
)  # fmt: skip
def test_any_bytes_in_any_chunks_give_the_same_events(wire: bytes, data: st.DataObject) -> None:
    whole = QmqpReader()
    expected = joined(whole.feed(wire))
    pieces, events, at = QmqpReader(), [], 0
    while at < len(wire):
        size = data.draw(st.integers(1, len(wire)))
        events += pieces.feed(wire[at : at + size])
        at += size
    assert joined(events) == expected
    assert type(pieces.fault) is type(whole.fault) and pieces.ended == whole.ended
    assert whole.ended == (bool(expected) and expected[-1][0] is Kind.END)


@pytest.mark.parametrize(("hops", "looping"), [(99, False), (100, True)])
def test_hops_are_counted(door: Door, hops: int, looping: bool) -> None:
    heard, code = door.talk(request(b"Received: x\n" * hops + b"\nReceived: y\n", b"a@b", b"c@d"))
    loop = format_netstring(b"Dtoo many hops, this message is looping (#5.4.6)")
    assert code == 0 and (heard == loop if looping else re.fullmatch(OK, heard))


def test_the_decision_is_a_line(door: Door) -> None:
    door.talk(request(b"x", b"a@b", b"c@d", b"e f@g"))
    line = rb"qmail-qmqpd: accepted ip=192\.0\.2\.7 helo= from=<a@b> to=<c@d>,<e_f@g> bytes=1 qp=\d+\n"
    assert re.fullmatch(line, door.log.read_bytes())
    door.talk(request(b"x", b"a@b", b"c\0@d"))
    assert door.log.read_bytes().startswith(
        b"qmail-qmqpd: refused ip=192.0.2.7 helo= from=<a@b> to= reason=553_sorry,_I"
    )
