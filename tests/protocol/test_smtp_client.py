"""The SMTP client's core: replies, the body encoder, and the order of the conversation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol.message_body import BodyEncoder, Dots, LineEnds
from pyqmail.protocol.smtp_client import Dialogue, Tls
from pyqmail.protocol.smtp_extensions import NOTHING_OFFERED, parse_extensions
from pyqmail.protocol.smtp_replies import TEXT_MAX, Reply, ReplyReader
from pyqmail.protocol.smtp_transaction import (
    Await,
    Finish,
    Measure,
    Send,
    SendBody,
    StartTls,
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
    assert steps == [Send(b"EHLO me\r\n"), Send(b"MAIL FROM:<s@x>\r\n")]


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
    dialogue = Dialogue(b"192.0.2.1", b"me", b"s@x", [b"a@x", b"b@x"], offered=NOTHING_OFFERED if greeted else None)
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
    dialogue = Dialogue(b"192.0.2.1", b"me", b"s@x", [b"r@x"], offered=NOTHING_OFFERED)
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
    dialogue = Dialogue(b"192.0.2.1", b"me", b"s@x", [b"r@x"], offered=NOTHING_OFFERED)
    replies = [b"250 a\n", b"250 b\n", b"354 c\n", b"250 d\n250 e\n"]
    while not isinstance(step := dialogue.step(), Finish):
        if isinstance(step, Await):
            dialogue.feed(replies.pop(0))
    assert step.report[:1] == b"K" and not step.accepted


OFFER = b"250-hello there\r\n250-PIPELINING\r\n250-LIMITS RCPTMAX=2 MAILMAX=5\r\n250-starttls\r\n250 AUTH=PLAIN\r\n"


def test_extensions_are_known_by_keyword_whatever_their_case() -> None:
    offered = parse_extensions(OFFER.replace(b"\r", b""))
    assert b"STARTTLS" in offered and b"HELLO" not in offered and offered.offered[b"AUTH"] == (b"PLAIN",)
    assert (offered.limit(b"RCPTMAX"), offered.limit(b"MAILMAX"), offered.limit(b"RCPTDOMAINMAX")) == (2, 5, None)


@given(st.binary(max_size=300))
def test_any_bytes_are_extensions(text: bytes) -> None:
    limit = parse_extensions(text).limit(b"RCPTMAX")
    assert limit is None or limit > 0


def introduced(offer: bytes, recipients: list[bytes], tls: Tls = Tls.NEVER) -> Dialogue:
    dialogue = Dialogue(b"192.0.2.1", b"me", b"s@x", recipients, tls=tls, measure=lambda: Measure(7, True))
    assert dialogue.step() == Await()
    dialogue.feed(b"220 hi\r\n")
    assert dialogue.step() == Send(b"EHLO me\r\n")
    dialogue.feed(offer)
    return dialogue


def test_pipelined_commands_go_together_and_stay_within_buffers() -> None:
    dialogue = introduced(b"250-x\r\n250 PIPELINING\r\n", [b"r%03d@%s" % (at, b"x" * 90) for at in range(400)])
    groups = []
    while isinstance(step := dialogue.step(), Send):
        groups.append(step.line)
        dialogue.feed(b"250 ok\r\n" * step.line.count(b"\n"))
        if step.line.endswith(b"DATA\r\n"):
            break
    assert len(groups) > 1 and max(map(len, groups)) < 17_000
    assert b"".join(groups).count(b"RCPT TO:") == 400


def test_recipients_beyond_the_announced_limit_are_left() -> None:
    dialogue = introduced(b"250-x\r\n250 LIMITS RCPTMAX=2\r\n", [b"a@x", b"b@x", b"c@x"])
    assert dialogue.step() == Send(b"MAIL FROM:<s@x>\r\n")
    assert dialogue.left == [b"c@x"]


@pytest.mark.parametrize(
    ("replies", "letters"),
    [
        pytest.param([b"250 a", b"552 too many recipients"], [b"r", b"s"], id="after one was accepted it is 452"),
        pytest.param([b"250 a", b"552 5.2.2 mailbox full"], [b"r", b"h"], id="a full mailbox is what it says"),
        pytest.param([b"552 no", b"250 b"], [b"h", b"r"], id="of the first recipient it is final"),
    ],
)
def test_552_means_too_many_recipients(replies: list[bytes], letters: list[bytes]) -> None:
    said = [b"220 a\n", b"250 b\n", b"250 c\n", *(reply + b"\n" for reply in replies), b"354 go\n", b"250 ok\n"]
    _, dialogue = hold(said, [b"a@x", b"b@x"])
    assert [report[:1] for report in dialogue.reports] == letters


def test_starttls_forgets_what_was_said_in_clear() -> None:
    dialogue = introduced(b"250-x\r\n250-SIZE\r\n250 STARTTLS\r\n", [b"r@x"], Tls.MAY)
    assert dialogue.step() == Send(b"STARTTLS\r\n")
    dialogue.feed(b"220 go\r\n")
    assert dialogue.step() == StartTls()
    assert dialogue.step() == Send(b"EHLO me\r\n")
    dialogue.feed(b"250 x\r\n")
    assert dialogue.step() == Send(b"MAIL FROM:<s@x>\r\n")  # no SIZE


def test_words_between_starttls_and_tls_end_the_conversation() -> None:
    dialogue = introduced(b"250-x\r\n250 STARTTLS\r\n", [b"r@x"], Tls.MAY)
    assert dialogue.step() == Send(b"STARTTLS\r\n")
    dialogue.feed(b"220 go\r\n250-x\r\n250 AUTH PLAIN\r\n")
    step = dialogue.step()
    assert isinstance(step, Finish) and step.report[:1] == b"Z" and not dialogue.introduced


@pytest.mark.parametrize(("tls", "goes_on"), [(Tls.MAY, True), (Tls.MUST, False)])
def test_starttls_that_is_refused_matters_only_where_tls_must_be(tls: Tls, goes_on: bool) -> None:
    dialogue = introduced(b"250-x\r\n250 STARTTLS\r\n", [b"r@x"], tls)
    dialogue.step()
    dialogue.feed(b"454 not now\r\n")
    step = dialogue.step()
    assert isinstance(step, Send) if goes_on else isinstance(step, Finish) and step.report[:1] == b"Z"


def test_a_server_without_tls_is_no_place_where_it_must_be() -> None:
    step = introduced(b"250 x\r\n", [b"r@x"], Tls.MUST).step()
    assert isinstance(step, Finish) and step.report == b"ZConnected to 192.0.2.1 but TLS was not offered. (#4.7.4)\n"


@given(LINE_BYTES)
def test_line_ends_and_dots_are_the_body(message: bytes) -> None:
    lines, dots = LineEnds(), Dots()
    assert dots.encode(lines.encode(message)) == BodyEncoder().encode(message)


EVERYTHING = b"250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n"


def counted(offer: bytes, *, lines: bool = True, chunking: bool = True) -> Dialogue:
    """A dialogue about a message of 7 octets, up to the answers to RCPT."""
    measure = Measure(7, False, lines)
    dialogue = Dialogue(b"192.0.2.1", b"me", b"s@x", [b"r@x"], measure=lambda: measure, chunking=chunking)
    dialogue.feed(b"220 hi\r\n")
    assert dialogue.step() == Send(b"EHLO me\r\n")
    dialogue.feed(offer)
    return dialogue


@pytest.mark.parametrize(
    ("offer", "lines", "chunking"),
    [
        pytest.param(EVERYTHING, True, False, id="not wanted"),
        pytest.param(EVERYTHING, False, True, id="not lines"),
        pytest.param(b"250-x\r\n250 PIPELINING\r\n", True, True, id="not offered"),
    ],
)
def test_without_chunking_or_lines_there_is_data(offer: bytes, lines: bool, chunking: bool) -> None:
    dialogue = counted(offer, lines=lines, chunking=chunking)
    assert dialogue.step() == Send(b"MAIL FROM:<s@x>\r\nRCPT TO:<r@x>\r\nDATA\r\n")
    dialogue.feed(b"250 a\r\n250 b\r\n354 c\r\n")
    assert dialogue.step() == SendBody()


@pytest.mark.parametrize(
    ("reply", "report", "unchunked"),
    [
        pytest.param(b"250- 7 octets\r\n250 OK", b"K192.0.2.1 accepted message.\n", False, id="two lines of a success"),
        pytest.param(b"452 full", b"Z192.0.2.1 failed after I sent the message.\n", False, id="later"),
        pytest.param(b"421 bye", b"Z192.0.2.1 failed after I sent the message.\n", False, id="it closes"),
        pytest.param(b"552 too big", b"D192.0.2.1 failed after I sent the message.\n", False, id="never"),
        pytest.param(b"554 spam", b"D192.0.2.1 failed after I sent the message.\n", False, id="not this one"),
        pytest.param(b"500 what?", b"Z192.0.2.1 offers CHUNKING but does not know BDAT.\n", True, id="no such command"),
        pytest.param(b"502 no", b"Z192.0.2.1 offers CHUNKING but does not know BDAT.\n", True, id="not implemented"),
        pytest.param(b"503 order", b"Z192.0.2.1 offers CHUNKING but does not know BDAT.\n", True, id="not here"),
    ],
)
def test_the_answer_to_the_last_chunk_is_about_the_message(reply: bytes, report: bytes, unchunked: bool) -> None:
    dialogue = counted(EVERYTHING)
    assert dialogue.step() == Send(b"MAIL FROM:<s@x>\r\nRCPT TO:<r@x>\r\n")
    dialogue.feed(b"250 a\r\n250 b\r\n")
    assert dialogue.step() == SendBody(7)
    dialogue.feed(reply + b"\r\n")
    step = dialogue.step()
    assert isinstance(step, Finish) and step.report.startswith(report)
    assert dialogue.unchunked is unchunked and step.accepted is (report[:1] == b"K")


def test_no_octet_is_sent_where_no_recipient_was_accepted() -> None:
    dialogue = counted(EVERYTHING)
    assert isinstance(dialogue.step(), Send)
    dialogue.feed(b"250 a\r\n550 b\r\n")
    assert dialogue.step() == Finish(b"DGiving up on 192.0.2.1.\n")
