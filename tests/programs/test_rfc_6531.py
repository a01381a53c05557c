"""RFC 6531 section 3 as a table: a row for each rule that binds a server or a client, by the number of its section.

A server's row is a transcript (smtp_transcripts). What clients of other hosts say and take is in
tests/integration/test_smtputf8.py.
"""

import re
from pathlib import Path

import pytest

from pyqmail.formats.facts import Facts
from pyqmail.protocol.smtp_client import Dialogue
from pyqmail.protocol.smtp_transaction import Await, Measure, Send
from tests.programs.smtp_transcripts import Transcript, check, fork_ours
from tests.remote.one_transaction import one_transaction

SERVER = {
    "3.1 items 2, 3 and 8: the keyword has no parameters, and 8BITMIME is there": r"""
        C: EHLO client.test
        S: 250-mx.test
        S: 250-PIPELINING
        S: 250-SIZE 0
        S: 250-8BITMIME
        S: 250 SMTPUTF8
    """,
    "3.1 items 4 and 9: MAIL takes the parameter, in any case, and paths are UTF-8 then": r"""
        C: MAIL FROM:<δοκιμή@client.test> smtputf8
        S: 250 ok
        C: RCPT TO:<用户@here.test>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: Subject: πρώτο\r\n\r\nx\r\n.
        S: 250 ok TIME qp NUMBER
        sender: δοκιμή@client.test
        recipient: 用户@here.test
        text: Subject: πρώτο
        text:
        text: x
    """,
    "3.1 item 5: a MAIL as long as RFC 5321 allows is 10 longer": r"""
        C: MAIL FROM:<{δ*32}@{c*60}.test> BODY=8BITMIME SMTPUTF8{ *360}
        S: 250 ok
    """,
    "3.1 item 4, 3.4: the parameter takes no value": r"""
        C: MAIL FROM:<δοκιμή@client.test> SMTPUTF8=1
        S: 550 sorry, that address is not ASCII: MAIL must say SMTPUTF8, and it must be UTF-8 (#5.6.7)
        queued: nothing
    """,
    "3.2: what is no UTF-8 is no address": r"""
        C: MAIL FROM:<\xe9@client.test> SMTPUTF8
        S: 550 sorry, that address is not ASCII: MAIL must say SMTPUTF8, and it must be UTF-8 (#5.6.7)
        C: MAIL FROM:<a@client.test> SMTPUTF8
        S: 250 ok
        C: RCPT TO:<\xe9@here.test>
        S: 553 sorry, that address is not ASCII: MAIL must say SMTPUTF8, and it must be UTF-8 (#5.6.7)
        C: RCPT TO:<\xc0\xaf@here.test>
        S: 553 sorry, that address is not ASCII: MAIL must say SMTPUTF8, and it must be UTF-8 (#5.6.7)
        queued: nothing
    """,
    "3.2: a domain is UTF-8 or A-labels, and the same": r"""
        control rcpthosts: xn--bcher-kva.test
        C: MAIL FROM:<a@client.test> SMTPUTF8
        S: 250 ok
        C: RCPT TO:<joe@bücher.test>
        S: 250 ok
        C: RCPT TO:<joe@xn--bcher-kva.test>
        S: 250 ok
        C: RCPT TO:<joe@bucher.test>
        S: 553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)
        queued: nothing
    """,
    "3.2: it does not change whom we relay for": r"""
        C: MAIL FROM:<a@client.test> SMTPUTF8
        S: 250 ok
        C: RCPT TO:<δοκιμή@far.test>
        S: 553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)
        queued: nothing
    """,
    "3.3: quotes, escapes and source routes are what they were": r"""
        C: MAIL FROM:<"δο κι"@client.test> SMTPUTF8
        S: 250 ok
        C: RCPT TO:<@far.test:"用\\>户"@here.test>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: \r\nx\r\n.
        S: 250 ok TIME qp NUMBER
        sender: δο κι@client.test
        recipient: 用>户@here.test
        text:
        text: x
    """,
    "3.5: without the parameter MAIL hears 550 and RCPT 553, both with 5.6.7": r"""
        C: MAIL FROM:<δοκιμή@client.test>
        S: 550 sorry, that address is not ASCII: MAIL must say SMTPUTF8, and it must be UTF-8 (#5.6.7)
        C: MAIL FROM:<ann@client.test>
        S: 250 ok
        C: RCPT TO:<用户@here.test>
        S: 553 sorry, that address is not ASCII: MAIL must say SMTPUTF8, and it must be UTF-8 (#5.6.7)
        C: RCPT TO:<bob@here.test>
        S: 250 ok
        queued: nothing
    """,
    "3.5: each message has to say it": r"""
        C: MAIL FROM:<a@client.test> SMTPUTF8
        S: 250 ok
        C: RSET
        S: 250 flushed
        C: MAIL FROM:<a@client.test>
        S: 250 ok
        C: RCPT TO:<用户@here.test>
        S: 553 sorry, that address is not ASCII: MAIL must say SMTPUTF8, and it must be UTF-8 (#5.6.7)
        queued: nothing
    """,
    "3.6: with BODY=8BITMIME; BINARYMIME is not offered": r"""
        C: MAIL FROM:<δοκιμή@client.test> BODY=8BITMIME SMTPUTF8
        S: 250 ok
        C: RCPT TO:<bob@here.test>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: \r\n\xff\r\n.
        S: 250 ok TIME qp NUMBER
        sender: δοκιμή@client.test
        recipient: bob@here.test
        text:
        text: \xff
    """,
    "3.6: an ASCII message may say it too": r"""
        C: MAIL FROM:<ann@client.test> SMTPUTF8
        S: 250 ok
        C: RCPT TO:<postmaster@here.test>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: \r\nx\r\n.
        S: 250 ok TIME qp NUMBER
        sender: ann@client.test
        recipient: postmaster@here.test
        text:
        text: x
    """,
    "3.7.1: our name is ASCII in the answer to EHLO": r"""
        control me: bücher.test
        C: EHLO client.test
        S: 250-xn--bcher-kva.test
        S: 250-PIPELINING
        S: 250-SIZE 0
        S: 250-8BITMIME
        S: 250 SMTPUTF8
    """,
    "3.7.4.2: VRFY and EXPN, with and without the parameter, answer in ASCII": r"""
        C: VRFY δοκιμή
        S: 252 send some mail, i'll try my best
        C: VRFY δοκιμή SMTPUTF8
        S: 252 send some mail, i'll try my best
        C: EXPN δοκιμή SMTPUTF8
        S: 502 unimplemented (#5.5.1)
    """,
}


def transcript(base: Path, text: str) -> Transcript:
    """The row ``text``, on a server that offers SMTPUTF8."""
    name = "xn--bcher-kva.test" if "control me" in text else "mx.test"
    head = f"control smtputf8: 1\ncontrol factsafe: {base}/queue-program\nS: 220 {name} ESMTP\n"
    lines = head + "".join(line.strip() + "\n" for line in text.splitlines()) + "exit: 1\n"
    path = base / "row.txt"
    path.write_bytes(lines.encode().decode("latin-1").encode())  # a transcript has a character for each byte
    return Transcript(path)


@pytest.mark.parametrize("text", SERVER.values(), ids=SERVER)
def test_a_server(tmp_path: Path, text: str) -> None:
    check(transcript(tmp_path, text), tmp_path, fork_ours, "in_turns")
    if "text:" in text:
        assert b" with UTF8SMTP;" in (tmp_path / "message").read_bytes()  # 3.7.3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(b"", b"with SMTP", id="a message that did not say it"),
        pytest.param(b" SMTPUTF8", b"with UTF8SMTP", id="one that did"),
    ],
)
def test_3_7_3_trace_information(tmp_path: Path, words: bytes, expected: bytes) -> None:
    row = rf"""
        C: MAIL FROM:<ann@client.test>{words.decode()}
        S: 250 ok
        C: RCPT TO:<bob@here.test>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: .
        S: 250 ok TIME qp NUMBER
    """
    check(transcript(tmp_path, row), tmp_path, fork_ours, "in_turns")
    assert re.findall(rb"with \w+", (tmp_path / "message").read_bytes()) == [expected]


BOX, DOMAIN = "δοκιμή@far.test".encode(), "joe@bücher.test".encode()
KNOWN, UNKNOWN = [b"8BITMIME", b"SMTPUTF8 ignored"], [b"8BITMIME"]
PLAIN = b"ann@far.test"


@pytest.mark.parametrize(
    ("declared", "sender", "recipient", "header", "offer", "said"),
    [
        pytest.param(
            False, BOX, PLAIN, True, KNOWN, b"MAIL FROM:<%b> SMTPUTF8" % BOX, id="3.1 item 3, 3.4: a sender needs it"
        ),
        pytest.param(False, PLAIN, BOX, True, KNOWN, b"MAIL FROM:<%b> SMTPUTF8" % PLAIN, id="3.4: a recipient does"),
        pytest.param(True, PLAIN, PLAIN, False, KNOWN, b"MAIL FROM:<%b> SMTPUTF8" % PLAIN, id="3.4: a header does"),
        pytest.param(False, PLAIN, PLAIN, True, KNOWN, b"MAIL FROM:<%b>" % PLAIN, id="3.4: nothing does"),
        pytest.param(
            False, DOMAIN, DOMAIN, True, UNKNOWN, b"MAIL FROM:<joe@xn--bcher-kva.test>", id="3.2: A-labels do not"
        ),
        pytest.param(False, BOX, PLAIN, True, UNKNOWN, b"#5.6.7", id="3.2, 3.5: no sender to who does not know it"),
        pytest.param(False, PLAIN, BOX, True, UNKNOWN, b"#5.6.7", id="3.2, 3.5: nor a recipient"),
        pytest.param(True, PLAIN, PLAIN, False, UNKNOWN, b"#5.6.9", id="3.2, 3.5: nor a header"),
        pytest.param(
            True, PLAIN, PLAIN, True, UNKNOWN, b"MAIL FROM:<%b>" % PLAIN, id="3.6: what only said it goes without"
        ),
    ],
)
def test_a_client(
    tmp_path: Path, declared: bool, sender: bytes, recipient: bytes, header: bool, offer: list[bytes], said: bytes
) -> None:
    facts = Facts(smtputf8=declared)
    commands, report = one_transaction(tmp_path, facts, sender, [recipient], offer, header_is_ascii=header)
    if said.startswith(b"#"):
        assert said in report and b"\nD" in b"\n" + report
        assert b"DATA" not in commands and BOX not in b"".join(commands)
    else:
        assert commands[0] == said and commands[-1] == b"DATA" and not report


@pytest.mark.parametrize("hello", ["me.bücher.test", "me.xn--bcher-kva.test"])
def test_3_7_1_a_client_introduces_itself_in_ascii(hello: str) -> None:
    dialogue = Dialogue(b"peer", hello.encode(), PLAIN, [PLAIN], measure=lambda: Measure(7, False))
    assert dialogue.step() == Await()
    dialogue.feed(b"220 hi\r\n")
    assert dialogue.step() == Send(b"EHLO me.xn--bcher-kva.test\r\n")
