"""The SMTP client's core: replies, the body encoder, and the order of the conversation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol.smtp_client import (
    TEXT_MAX,
    Await,
    BodyEncoder,
    Dialogue,
    Finish,
    Reply,
    ReplyReader,
    Send,
    SendBody,
    Step,
    carriable,
    format_path,
)

LINE_BYTES = st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"..", b"\r\n"])).map(b"".join)


def read_replies(pieces: list[bytes]) -> list[Reply]:
    reader = ReplyReader()
    replies = []
    for piece in pieces:
        reader.feed(piece)
        while reply := reader.next():
            replies.append(reply)
    return replies


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in zip(places, places[1:], strict=False)]


@pytest.mark.contract("remote 5")
@pytest.mark.parametrize(
    ("wire", "code", "text"),
    [
        pytest.param(b"220 hi\r\n", 220, b"220 hi\n", id="one line"),
        pytest.param(b"220-a\r\n220 b\r\n", 220, b"220-a\n220 b\n", id="two lines"),
        pytest.param(b"250-a\r\n550 b\r\n", 250, b"250-a\n550 b\n", id="the codes of continuation lines are ignored"),
        pytest.param(b"250\r\n", 250, b"250\n", id="code alone"),
        pytest.param(b"250\n", 250, b"250\n", id="code and LF"),
        pytest.param(b"hello\n", 6190, b"hello\n", id="no digits count as a number"),
        pytest.param(b"150 ok\n", 150, b"150 ok\n", id="below 200"),
        pytest.param(b"\n\n\n\n", (1 << 64) - 4218, b"\n\n\n\n", id="bytes below '0' wrap round"),
        pytest.param(b"250 " + b"x" * 9000 + b"\n", 250, b"250 " + b"x" * 4996, id="the text is cut at 5000"),
    ],
)
def test_reply_is_read_as_the_original_does(wire: bytes, code: int, text: bytes) -> None:
    assert read_replies([wire]) == [Reply(code, text)]


@given(st.lists(st.sampled_from([b"2", b"5", b"0", b"-", b" ", b"\r", b"\n", b"\0", b"x"])).map(b"".join), st.data())
def test_reply_chunks_do_not_matter(wire: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, 200)))
    assert read_replies(split_at(wire, cuts)) == read_replies([wire])


@given(st.binary(max_size=300))
def test_any_bytes_are_replies_or_wait(wire: bytes) -> None:
    for reply in read_replies([wire[at : at + 1] for at in range(len(wire))]):
        assert reply.code >= 0 and len(reply.text) <= TEXT_MAX and b"\r" not in reply.text


def encode(pieces: list[bytes]) -> bytes | None:
    encoder = BodyEncoder()
    out = b"".join([encoder.encode(piece) for piece in pieces])
    ending = encoder.finish()
    return None if ending is None else out + ending


@pytest.mark.contract("remote 5")
@pytest.mark.parametrize(
    ("message", "wire"),
    [
        pytest.param(b"a\n", b"a\r\n.\r\n", id="LF"),
        pytest.param(b"a\r\n", b"a\r\n.\r\n", id="CR LF"),
        pytest.param(b"a\rb\n", b"a\r\nb\r\n.\r\n", id="CR and another byte"),
        pytest.param(b"a\r\r\n", b"a\r\n\r\r\n.\r\n", id="CR CR LF"),
        pytest.param(b"a\r", b"a\r\n.\r\n", id="CR at the end"),
        pytest.param(b".\n..a\n", b"..\r\n...a\r\n.\r\n", id="dots at line starts"),
        pytest.param(b"", b".\r\n", id="empty"),
        pytest.param(b"a\nb", None, id="partial final line"),
        pytest.param(b"foo\r.\n", b"foo\r\n..\r\n.\r\n", id="dot after a bare CR"),
        pytest.param(b"foo\r\r.\n", b"foo\r\n\r..\r\n.\r\n", id="dot after two bare CRs"),
    ],
)
def test_body_conversion(message: bytes, wire: bytes | None) -> None:
    assert encode([message]) == wire


@given(LINE_BYTES, st.lists(st.integers(0, 200)))
def test_body_chunks_do_not_matter(message: bytes, cuts: list[int]) -> None:
    assert encode(split_at(message, cuts)) == encode([message])


@given(LINE_BYTES)
def test_body_never_ends_early(message: bytes) -> None:
    wire = encode([message])
    if wire is None:
        return
    body = wire.removesuffix(b".\r\n")
    assert len(body) == len(wire) - 3
    assert b"\n" not in body.replace(b"\r\n", b"")
    for line in body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):  # the most lenient receiver
        assert line != b"."


@given(st.lists(st.binary(max_size=20).filter(lambda line: not {10, 13} & set(line))))
def test_receiver_gets_the_lines_that_were_sent(lines: list[bytes]) -> None:
    wire = encode([b"".join(line + b"\n" for line in lines)])
    assert wire is not None
    received = wire.split(b"\r\n")[:-2]
    assert [line.removeprefix(b".") for line in received] == lines


@pytest.mark.contract("remote 5", "remote 7.7", "remote 7.8")
@pytest.mark.parametrize(
    ("mailbox", "path"),
    [
        pytest.param(b"", b"<>", id="the empty sender"),
        pytest.param(b"#@[]", b"<#@[]>", id="the double bounce sender"),
        pytest.param(b"a b", b"<a b>", id="raw without an @"),
        pytest.param(b"a b@c", b'<"a b"@c>', id="a space"),
        pytest.param(b"@c", b'<""@c>', id="an empty local part"),
        pytest.param(b"a@b@c", b'<"a@b"@c>', id="the last @ counts"),
        pytest.param(b".a@c", b'<".a"@c>', id="a leading dot"),
        pytest.param(b"a..b@c", b'<"a..b"@c>', id="two dots"),
        pytest.param(b'a"\\@c', b'<"a\\"\\\\"@c>', id="quote and backslash are escaped"),
        pytest.param(b"\xe9@c", b'<"\xe9"@c>', id="a high byte"),
        pytest.param(b"a.b+c@d", b"<a.b+c@d>", id="plain"),
    ],
)
def test_address_on_the_wire(mailbox: bytes, path: bytes) -> None:
    assert format_path(mailbox) == path


@given(st.binary(max_size=40))
def test_a_carriable_address_stays_on_its_line(mailbox: bytes) -> None:
    if carriable(mailbox):
        assert not set(format_path(mailbox)) & {0, 10, 13}


def hold(replies: list[bytes], recipients: list[bytes]) -> tuple[list[Step], Dialogue]:
    dialogue = Dialogue(b"192.0.2.1", b"me", b"s@x", recipients)
    left = list(replies)
    steps: list[Step] = []
    while not isinstance(step := dialogue.step(), Finish):
        if isinstance(step, Await):
            if not left:
                return steps, dialogue
            dialogue.feed(left.pop(0))
        else:
            steps.append(step)
    return [*steps, step], dialogue


def test_nothing_is_sent_before_its_reply() -> None:
    steps, _ = hold([b"220 a\r\n", b"250 b\r\n"], [b"r@x"])
    assert steps == [Send(b"HELO me\r\n"), Send(b"MAIL FROM:<s@x>\r\n")]


@pytest.mark.contract("remote 7.9")
def test_duplicate_recipients_are_sent_twice() -> None:
    steps, dialogue = hold([b"220 a\n", b"250 b\n", b"250 c\n", b"250 d\n", b"250 e\n", b"354 f\n"], [b"r@x", b"r@x"])
    assert steps[2:4] == [Send(b"RCPT TO:<r@x>\r\n")] * 2
    assert steps[-1] == SendBody() and dialogue.reports == [b"r", b"r"]


def test_recipient_with_a_line_break_is_refused_and_never_sent() -> None:
    steps, dialogue = hold([b"220 a\n", b"250 b\n", b"250 c\n"], [b"r@x>\r\nDATA"])
    assert steps[-1] == Finish(b"DGiving up on 192.0.2.1.\n")
    assert dialogue.reports[0].startswith(b"h") and len(steps) == 3


@given(st.lists(st.binary(max_size=12), max_size=40), st.booleans())
def test_whatever_a_peer_says_the_dialogue_ends_or_waits(pieces: list[bytes], greeted: bool) -> None:
    dialogue = Dialogue(b"192.0.2.1", b"me", b"s@x", [b"a@x", b"b@x"], greeted=greeted)
    left = list(pieces)
    for _ in range(200):
        step = dialogue.step()
        if isinstance(step, Finish):
            assert step.report[:1] in (b"K", b"Z", b"D")
            assert all(b"\0" not in report for report in (*dialogue.reports, step.report))
            return
        if isinstance(step, Await):
            if not left:
                return
            dialogue.feed(left.pop(0))
    raise AssertionError("it neither ends nor waits")


def test_a_greeted_conversation_begins_at_mail_and_may_be_followed_by_another() -> None:
    dialogue = Dialogue(b"192.0.2.1", b"me", b"s@x", [b"r@x"], greeted=True)
    said = []
    replies = [b"250 a\n", b"250 b\n", b"354 c\n", b"250 d\n"]
    while not isinstance(step := dialogue.step(), Finish):
        if isinstance(step, Await):
            dialogue.feed(replies.pop(0))
        elif isinstance(step, Send):
            said.append(step.line)
    assert said == [b"MAIL FROM:<s@x>\r\n", b"RCPT TO:<r@x>\r\n", b"DATA\r\n"]
    assert step.accepted and dialogue.last_code == 250


def test_bytes_after_the_last_reply_forbid_another_message() -> None:
    dialogue = Dialogue(b"192.0.2.1", b"me", b"s@x", [b"r@x"], greeted=True)
    replies = [b"250 a\n", b"250 b\n", b"354 c\n", b"250 d\n250 e\n"]
    while not isinstance(step := dialogue.step(), Finish):
        if isinstance(step, Await):
            dialogue.feed(replies.pop(0))
    assert step.report[:1] == b"K" and not step.accepted
