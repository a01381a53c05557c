"""The JSON twin of the log: each event is an object, and what is read back is the event."""

import json
import os

import pytest
from hypothesis import given

from pyqmail.log.events import Decision, DeliveryEnded, DeliveryStarted, MessageEnded, MessageInfo, NewMessage, Running
from pyqmail.log.json_lines import REMEMBERED_MAX, JsonLines, parse_json
from pyqmail.log.sinks import BOTH, CLASSIC, JSON, LineSink
from pyqmail.log.stamps import parse_line
from tests.log.test_events import ANY, EVENTS

WHEN = 1_795_440_902.5


def lines() -> JsonLines:
    return JsonLines("qmail-send", clock=lambda: WHEN)


@pytest.mark.parametrize("event", [event for _, event in EVENTS])
def test_each_event_is_an_object_and_read_back(event: object) -> None:
    program = event.program.decode() if isinstance(event, Decision) else "qmail-send"
    line = JsonLines(program, clock=lambda: WHEN).format(event)  # type: ignore[arg-type]
    members = json.loads(line)
    assert (members["time"], members["program"]) == ("2026-11-23T13:35:02.500000Z", program)
    assert parse_json(line.decode()) == (WHEN, event)
    assert parse_line("@4000000037c219bf2ef02e94 " + line.decode()) == (WHEN, event)


@given(ANY)
def test_an_object_is_one_line_whatever_is_in_it(event: object) -> None:
    line = lines().format(event)  # type: ignore[arg-type]
    assert b"\n" not in line and isinstance(json.loads(line), dict)


def test_strangers_text_is_text() -> None:
    hostile = b'\x1b[2J"}\n{"event":"end","msg":1} \xff \xc3\xa4'
    line = lines().format(DeliveryEnded(1, "failure", hostile))
    assert json.loads(line)["text"] == hostile.decode("utf-8", "replace")
    assert line.count(b"\n") == 0 and b"\x1b" not in line


def test_the_end_of_a_delivery_says_of_which_message() -> None:
    made = lines()
    made.format(NewMessage(5))
    made.format(MessageInfo(5, 10, b"a@b", 77, 1000))
    made.format(DeliveryStarted(1, 5, "remote", b"joe@b.test"))
    ended = json.loads(made.format(DeliveryEnded(1, "success", b"accepted")))
    assert (ended["msg"], ended["qp"], ended["recipient"], ended["channel"]) == (5, 77, "joe@b.test", "remote")
    assert json.loads(made.format(MessageEnded(5)))["qp"] == 77
    made.format(NewMessage(5))
    assert "qp" not in json.loads(made.format(DeliveryStarted(2, 5, "local", b"x")))  # the number is another message's


def test_what_is_remembered_is_bounded() -> None:
    made = lines()
    for number in range(REMEMBERED_MAX + 10):
        made.format(MessageInfo(number, 1, b"", number, 0))
    assert len(made._submissions) == REMEMBERED_MAX
    assert json.loads(made.format(DeliveryStarted(1, REMEMBERED_MAX + 9, "local", b"x")))["qp"] == REMEMBERED_MAX + 9


def test_recipients_of_a_decision_are_a_list_and_their_number() -> None:
    words = ((b"bytes", b"1"), (b"qp", b"2"), (b"encrypted", b"TLSv1.3"))
    event = Decision(b"qmail-smtpd", "accepted", b"::1", b"h", b"a@b", b"<c@d>,<e@f>,+3", words)
    members = json.loads(JsonLines("qmail-smtpd", "12.ab").format(event))
    assert members["to"] == ["c@d", "e@f"] and members["more"] == 3
    assert (members["session"], members["bytes"], members["qp"], members["encrypted"]) == ("12.ab", 1, 2, "TLSv1.3")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"event":"new"}',
        '{"event":"new","msg":"x"}',
        '{"event":"decision","to":5}',
        '{"event":[]}',
        "{" * 20000,
        '{"time":7,"event":"end","msg":1.5}',
    ],
)
def test_what_is_no_object_of_ours_is_no_event(text: str) -> None:
    assert parse_json(text)[1] is None
    parse_line(text)


@pytest.mark.parametrize(("form", "count"), [(CLASSIC, 1), (JSON, 1), (BOTH, 2)])
def test_a_sink_writes_the_form_that_is_asked_for(form: bytes, count: int) -> None:
    reader, writer = os.pipe()
    sink = LineSink(writer)
    sink.use(form, "qmail-send")
    sink(Running(0, 10, 0, 20))
    sink.line(b"another's line")
    os.close(writer)
    with open(reader, "rb") as file:
        written = file.read().splitlines()
    assert len(written) == 2 * count
    assert (b"status: local 0/10 remote 0/20" in written) == (form != JSON)
    objects = [json.loads(line) for line in written if line.startswith(b"{")]
    assert [each["event"] for each in objects] == (["status", "line"] if form != CLASSIC else [])
