"""What qmail-send returns to senders, and how it gets into the queue."""

import email
import email.policy
import os
import re
import sys
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
from flufl.bounce import all_failures

from tests.programs.sending import Sending
from tests.spool.queue_tree import Tree


@pytest.fixture
def spied(sending: Sending) -> Sending:
    """A qmail-send whose bounces end in a file."""
    sending.spy()
    return sending


def spy(sending: Sending) -> tuple[bytes, bytes]:
    """Message and envelope of the last bounce."""
    message, _, envelope = (sending.home / "spy").read_bytes().rpartition(b"|")
    return message, envelope


def qsbmf(message: bytes) -> list[bytes]:
    """The recipients that failed, by the rules of ezmlm-idx's ezmlm-return: paragraphs, MIME boundaries passed over."""
    _header, *paragraphs = message.split(b"\n\n")
    while paragraphs[0].startswith(b"--"):
        del paragraphs[0]
    assert paragraphs[0].startswith(b"Hi. This is the")
    found = []
    for paragraph in paragraphs[1:]:
        if paragraph.startswith(b"-"):
            return found
        if paragraph.lstrip(b"\n").startswith(b"<"):
            found.append(paragraph.lstrip(b"\n").partition(b">:\n")[0][1:])
    raise AssertionError("no break paragraph")


def parts(message: bytes) -> tuple[Message, list[Message]]:
    """The bounce and its parts, read by the standard library."""
    whole = email.message_from_bytes(message, policy=email.policy.default)
    assert whole.get_content_type() == "multipart/report" and whole.get_param("report-type") == "delivery-status"
    found = whole.get_payload()
    assert isinstance(found, list) and not whole.defects and not any(part.defects for part in whole.walk())
    return whole, found


def fail(sending: Sending, sender: bytes, *recipients: bytes, text: bytes = b"no", body: bytes = b"A: b\n\nc\n") -> int:
    """Have every local delivery of a new message fail, and wait for its end."""
    number = sending.put(sender, *recipients, body=body)
    if not sending.pid:
        sending.start().until_log("status:")
    sending.pull()
    sending.until(lambda: len(sending.commands["local"]) == len(recipients))
    for command in sending.commands["local"]:
        sending.report("local", command.slot, b"D", text)
    sending.commands["local"] = []
    sending.until_log(f"end msg {number}\n")
    return number


@pytest.mark.contract("send 8.1", "send 8.4", "send 8.5", "send 8.6", "send 8.7", "send 8.8", "send 8a.1")
def test_a_bounce_part_by_part(spied: Sending) -> None:
    number = fail(spied, b"joe@a.example", b"x@v.example", b"y@here.example", text=b"\n\nno\n\n\nway\n\n")
    message, envelope = spy(spied)
    head, intro, recipients, rest = message.split(b"\n\n", 1)[0], *message.split(b"\n\n", 1)[1].partition(b"<")
    assert re.fullmatch(rb"Message-ID: <\d{14}\.%d\.qmail-send@mx\.example\.test>" % number, head.splitlines()[1])
    assert head.splitlines()[2:] == [
        b"From: MAILER-DAEMON@mx.example.test",
        b"To: joe@a.example",
        b"Subject: failure notice",
        b"Auto-Submitted: auto-replied",
        b"MIME-Version: 1.0",
        b"Content-Type: text/plain; charset=us-ascii",
        b"Content-Transfer-Encoding: 7bit",
    ]
    assert head.startswith(b"Date: ") and head.splitlines()[0].endswith(b" -0000")
    assert intro.startswith(b"Hi. This is the qmail-send program at mx.example.test.\n") and intro.endswith(b"\n\n")
    paragraphs, break_line, original = (recipients + rest).partition(
        b"--- Below this line is a copy of the message.\n\n"
    )
    assert break_line
    assert paragraphs == b"<x@v.example>:\n//no\n//way\n\n\n<y@here.example>:\n//no\n//way\n\n\n"
    assert original == b"Return-Path: <joe@a.example>\nA: b\n\nc\n"
    assert envelope == b"F\0Tjoe@a.example\0\0"
    assert f"bounce msg {number} qp " in spied.log
    assert not (spied.queue / f"bounce/{number}").exists()


@pytest.mark.contract("send 8.1", "send 8.8")
def test_a_sender_of_a_list_loses_its_tail_in_envelope_and_return_path(spied: Sending) -> None:
    fail(spied, b"list-@a.example-@[]", b"y@here.example")
    message, envelope = spy(spied)
    assert envelope == b"F\0Tlist-@a.example\0\0"
    assert b"\nTo: list-@a.example\n" in message and b"\nReturn-Path: <list-@a.example>\n" in message


@pytest.mark.contract("send 8.2", "send 8.7", "send 8.5")
def test_a_double_bounce(spied: Sending) -> None:
    fail(spied, b"", b"y@here.example")
    message, envelope = spy(spied)
    assert envelope == b"F#@[]\0Tpostmaster@mx.example.test\0\0"
    assert b"\n\n--- Below this line is the original bounce.\n\nReturn-Path: <>\nA: b\n\nc\n" in message
    assert b"\nTo: postmaster@mx.example.test\n" in message


@pytest.mark.contract("send 8.2", "send 9.7")
def test_an_empty_doublebounceto_discards_double_bounces(send_home: Path, spied: Sending) -> None:
    (send_home / "control/doublebounceto").write_text("\n")
    number = fail(spied, b"", b"y@here.example")
    assert f"double bounce: discarding bounce/{number}\nend msg {number}\n" in spied.log
    fail(spied, b"joe@a.example", b"y@here.example")
    assert spy(spied)[1] == b"F\0Tjoe@a.example\0\0"


@pytest.mark.contract("send 8.3", "send 9.7")
def test_a_triple_bounce_is_dropped(send_home: Path, spied: Sending) -> None:
    number = fail(spied, b"#@[]", b"y@here.example")
    assert f"triple bounce: discarding bounce/{number}\nend msg {number}\n" in spied.log
    assert not (send_home / "spy").exists()


@pytest.mark.contract("send 8a.3")
@pytest.mark.parametrize(
    ("sender", "quoted"),
    [
        (b"a b@a.example", b'"a b"@a.example'),
        (b".a@a.example", b'".a"@a.example'),
        (b"a..b@a.example", b'"a..b"@a.example'),
        (b"a\xe9@a.example", b'"a\xe9"@a.example'),
        (b'a"\\@a.example', b'"a\\"\\\\"@a.example'),
        (b"@a.example", b'""@a.example'),
    ],
)
def test_addresses_are_quoted_where_they_must_be(spied: Sending, sender: bytes, quoted: bytes) -> None:
    fail(spied, sender, b"y@here.example")
    message, envelope = spy(spied)
    assert b"\nTo: " + quoted + b"\n" in message
    assert b"\nReturn-Path: <" + quoted + b">\n" in message
    assert envelope == b"F\0T" + sender + b"\0\0"


@pytest.mark.contract("send 8.8")
def test_a_big_message_comes_back_whole(spied: Sending) -> None:
    body = b"Subject: big\n\n" + b"0123456789abcde\n" * 200_000
    fail(spied, b"joe@a.example", b"y@here.example", body=body)
    assert spy(spied)[0].endswith(b"\nReturn-Path: <joe@a.example>\n" + body)


@pytest.mark.parametrize(
    ("most", "shown"),
    [(0, 0), (5, 5), (99, 90), (100, 100), (70_007, 70_000), (150_000, 150_000)],
    ids=["nothing", "first line only", "whole lines", "just so", "beyond one piece", "all of it"],
)
def test_bouncemaxbytes_cuts_the_copied_message(send_home: Path, spied: Sending, most: int, shown: int) -> None:
    (send_home / "control/bouncemaxbytes").write_text(f"{most}\n")
    body = b"A: b\n" + b"1234\n" + b"123456789\n" * 14_999
    fail(spied, b"joe@a.example", b"y@here.example", body=body)
    copy = spy(spied)[0].partition(b"\nReturn-Path: <joe@a.example>\n")[2]
    if most == len(body):
        assert copy == body
    else:
        text = f"\n--- Here the message is cut: {shown} of its {len(body)} bytes are shown.\n"
        assert copy == body[:shown] + text.encode()


REPLY = b"192.0.2.1 does not like recipient.\nRemote host said: 550-5.1.1 no such\n550 5.1.1 user\nGiving up."


def test_dsnbounces_gives_a_report_that_list_managers_and_programs_read(send_home: Path, spied: Sending) -> None:
    (send_home / "control/dsnbounces").write_text("1\n")
    body = b"Subject: x\n\nbody"
    fail(spied, b"joe@a.example", b"x@here.example", "\u00f8+@here.example".encode(), text=REPLY, body=body)
    message, envelope = spy(spied)
    assert envelope == b"F\0Tjoe@a.example\0\0"
    assert qsbmf(message) == [b"x@here.example", "\u00f8+@here.example".encode()]
    whole, (text, status, original) = parts(message)
    assert whole["Auto-Submitted"] == "auto-replied" and whole["Content-Transfer-Encoding"] == "8bit"
    assert whole["Message-ID"] and whole["Date"] and whole["MIME-Version"] == "1.0"
    assert (text.get_content_charset(), text["Content-Transfer-Encoding"]) == ("utf-8", "8bit")
    assert status.get_content_type() == "message/delivery-status" and status["Content-Transfer-Encoding"] == "7bit"
    fields, one, two = status.get_payload()
    assert fields["Reporting-MTA"] == "dns; mx.example.test" and fields["Arrival-Date"]
    assert [one[name] for name in ("Final-Recipient", "Action", "Status")] == [
        "rfc822; x@here.example", "failed", "5.1.1"
    ]  # fmt: skip
    assert one["Diagnostic-Code"] == "smtp; 550-5.1.1 no such 550 5.1.1 user Giving up."
    assert two["Final-Recipient"] == "utf-8; \\x{F8}\\x{2B}@here.example"
    assert original.get_content_type() == "message/rfc822" and original["Content-Transfer-Encoding"] == "7bit"
    (inner,) = original.get_payload()
    assert inner.as_bytes() == b"Return-Path: <joe@a.example>\n" + body


@pytest.mark.parametrize("dsnbounces", ["0", "1"], ids=["classic", "report"])
def test_mailmans_parser_finds_who_bounced(send_home: Path, spied: Sending, dsnbounces: str) -> None:
    (send_home / "control/dsnbounces").write_text(dsnbounces + "\n")
    fail(spied, b"list-bounces@a.example", b"x@here.example", b"y-a.b@here.example", text=REPLY)
    message, _ = spy(spied)
    temporary, permanent = all_failures(email.message_from_bytes(message))
    assert not temporary and permanent == {b"x@here.example", b"y-a.b@here.example"}


@pytest.mark.parametrize("dsnbounces", ["0", "1"], ids=["classic", "report"])
def test_ezmlm_finds_who_bounced(send_home: Path, spied: Sending, dsnbounces: str) -> None:
    """By the address that the bounce comes to, and by QSBMF, in the whole bounce and in its first part alone.

    The empty lines of an answer are no paragraphs, and neither is a line of it that begins like one.
    """
    (send_home / "control/dsnbounces").write_text(dsnbounces + "\n")
    failed = [b"x@here.example", b"y=far.example@here.example"]
    fail(spied, b"list-return-7-@a.example-@[]", *failed, text=b"no\n\n<eve@here.example>:\n\n--- \n- no\n")
    message, envelope = spy(spied)
    assert envelope == b"F\0Tlist-return-7-@a.example\0\0"
    assert qsbmf(message) == failed
    if dsnbounces == "1":
        _, (text, status, _) = parts(message)
        first = text.get_payload(decode=True)
        assert isinstance(first, bytes) and qsbmf(b"Subject: x\n\n" + first) == failed
        assert len(status.get_payload()) == 1 + len(failed)


@pytest.mark.parametrize("most", [0, 20, 60])
def test_dsnbounces_returns_the_header_of_what_is_longer_than_bouncemaxbytes(
    send_home: Path, spied: Sending, most: int
) -> None:
    (send_home / "control/dsnbounces").write_text("1\n")
    (send_home / "control/bouncemaxbytes").write_text(f"{most}\n")
    header = b"Subject: x\nX-Long: 0123456789\n"
    fail(spied, b"", b"y@here.example", body=header + b"\n" + "\u00f8\n".encode() * 90)
    message, _ = spy(spied)
    assert qsbmf(message) == [b"y@here.example"] and b"\n--- Below this line is the original bounce.\n\n" in message
    _, (_, status, original) = parts(message)
    assert status.get_payload()[1]["Diagnostic-Code"] == "x-qmail; no"
    assert original.get_content_type() == "text/rfc822-headers"
    shown = {0: b"", 20: header[:11], 60: header}[most]
    assert original.get_payload().encode() == b"Return-Path: <>\n" + shown


@pytest.mark.contract("send 8a.2", "send 9.8")
def test_a_bounce_file_that_cannot_be_written_keeps_its_recipient_and_nobody_else(sending: Sending) -> None:
    number = sending.put(b"joe@a.example", b"x@here.example", b"y@here.example")
    (sending.queue / f"bounce/{number}").mkdir()
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    sending.report("local", 0, b"D", b"no")
    sending.until_log("alert: unable to append to bounce message; HELP! sleeping...\n")
    sending.report("local", 1, b"K")
    sending.until_log("delivery 2: success: \n")
    path = sending.queue / f"local/{number % 3}/{number}"
    sending.until(lambda: path.read_bytes() == b"Tx@here.example\0Dy@here.example\0")


@pytest.mark.contract("send 8a.4", "send 9.9")
@pytest.mark.parametrize(
    ("queue", "line"),
    [
        ("#!/bin/sh\nexit 53\n", "warning: trouble injecting bounce message, will try later\n"),
        ("#!/bin/sh\nexec <&-\nexit 0\n", "warning: trouble injecting bounce message, will try later\n"),
        ("#!/bin/sh\ncat >/dev/null\nkill -9 $$\n", "warning: trouble injecting bounce message, will try later\n"),
        (None, "warning: trouble injecting bounce message, will try later\n"),
        ("", "warning: unable to start qmail-queue, will try later\n"),
    ],
    ids=["refused", "exit 0 without reading", "killed", "no such program", "no program"],
)
def test_a_bounce_that_cannot_be_queued_is_kept(
    send_home: Path, sending: Sending, queue: str | None, line: str
) -> None:
    program = send_home / "queue-program"
    if queue is not None:
        program.write_text(queue)
        program.chmod(0o755 if queue else 0o644)
    sending.environ["QMAILQUEUE"] = str(program)
    body = b"A: b\n\n" + b"x\n" * 200_000
    number = sending.put(b"joe@a.example", b"x@here.example", b"y@here.example", body=body)
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    for slot in (0, 1):
        sending.report("local", slot, b"D", b"no")
    sending.until_log(line)
    assert (sending.queue / f"bounce/{number}").read_bytes().count(b">:\nno\n\n") == 2
    assert (sending.queue / f"info/{number % 3}/{number}").exists()
    assert sending.finish() == 0


@pytest.mark.contract("send 6a.5", "send 9.9")
def test_a_bounce_whose_sender_is_lost_is_not_sent_to_anybody(spied: Sending) -> None:
    """An empty info file is damage, not an empty sender: no double bounce must come of it."""
    for part, text in (("mess", b"x\n"), ("info", b""), ("info", b"Fjoe@a.ex")):
        (spied.queue / part / "1/7").write_bytes(text)
    (spied.queue / "bounce/7").write_bytes(b"<u@here.example>:\nno\n\n")
    spied.start().until_log("warning: unable to stat info/1/7; will try again later\n")
    assert spied.finish() == 0
    assert not (spied.home / "spy").exists() and (spied.queue / "bounce/7").exists()


def test_a_slow_queue_keeps_nothing_else_waiting(send_home: Path, sending: Sending) -> None:
    """The program that takes the bounce hangs; deliveries and the end of other messages go on."""
    fifo = send_home / "gate"
    os.mkfifo(fifo)
    script = send_home / "slow"
    script.write_text(f"#!/bin/sh\ncat {fifo} >/dev/null\ncat >/dev/null\ncat <&1 >/dev/null\n")
    script.chmod(0o755)
    sending.environ["QMAILQUEUE"] = str(script)
    body = b"x\n" * 100_000  # more than a pipe holds
    first = sending.put(b"joe@a.example", b"x@here.example", b"y@here.example", body=body)
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    for slot in (0, 1):
        sending.report("local", slot, b"D", b"no")
    sending.until(lambda: sending.log.count("failure") == 2)
    second = sending.put(b"joe@a.example", b"x@here.example", b"y@here.example")
    sending.pull()
    sending.until(lambda: len(sending.commands["local"]) == 4)
    for command in sending.commands["local"][2:]:
        sending.report("local", command.slot, b"K")
    sending.until_log(f"end msg {second}\n")
    assert f"end msg {first}\n" not in sending.log
    os.close(os.open(fifo, os.O_WRONLY))
    sending.until_log(f"bounce msg {first} qp ")
    sending.until_log(f"end msg {first}\n")


def test_the_program_gets_no_descriptor_of_ours(send_home: Path, sending: Sending) -> None:
    script = send_home / "look"
    script.write_text(
        f"#!{sys.executable} -IS\nimport os\nfds = {{}}\n"
        "for fd in os.listdir('/proc/self/fd'):\n"
        "    try:\n        fds[fd] = os.readlink('/proc/self/fd/%s' % fd)\n"
        "    except FileNotFoundError:\n        pass\n"
        f"open({str(send_home / 'seen')!r}, 'w').write(repr((fds, os.getcwd())))\n"
        "while os.read(0, 1 << 20) + os.read(1, 1 << 20):\n    pass\n"
    )
    script.chmod(0o755)
    sending.environ["QMAILQUEUE"] = str(script)
    sending.start().until_log("status:")
    ours = {os.readlink(f"/proc/{sending.pid}/fd/{fd}") for fd in range(7)}
    sending.put(b"joe@a.example", b"x@here.example")
    sending.pull()
    sending.until(lambda: sending.commands["local"])
    sending.report("local", 0, b"D", b"no")
    sending.until_log("bounce msg")
    fds, directory = eval((send_home / "seen").read_text())  # written by the lines above
    assert directory == str(send_home)
    assert fds["0"].startswith("pipe:") and fds["1"].startswith("pipe:")
    assert not ours & set(fds.values())


@pytest.fixture
def serviced() -> Iterator[Sending]:
    """A qmail-send beside a qmail-queued."""
    tree = Tree(single_user=True)
    (tree.home / "control/me").write_text("mx.example.test\n")
    (tree.home / "control/locals").write_text("here.example\n")
    (tree.queue / "lock/sendmutex").write_bytes(b"")
    tree.start_service()
    sending = Sending(tree.home, split=23)
    yield sending
    sending.kill()
    tree.close()


def test_bounces_go_through_the_queue_service_many_at_once(serviced: Sending) -> None:
    sending = serviced
    senders = [b"joe@a.example", b"joe@b.example"]
    numbers = {sending.put(senders[index % 2], b"x@here.example", b"y@here.example") for index in range(30)}
    sending.start()

    def all_ended() -> bool:
        commands, sending.commands["local"] = sending.commands["local"], []
        for command in commands:
            sending.report("local", command.slot, b"D", b"no")
        return all(f"end msg {number}\n" in sending.log for number in numbers)

    sending.until(all_ended)
    assert sending.log.count("bounce msg ") == 30
    serials = {line.rpartition(" ")[2] for line in sending.log.splitlines() if line.startswith("bounce msg")}
    assert len(serials) == 30 and all(int(serial) > 4194304 for serial in serials)
    sending.until(lambda: len(sending.commands["remote"]) == 20)
    assert {(command.sender, command.recipient) for command in sending.commands["remote"]} == {
        (b"", sender) for sender in senders
    }
    assert "trouble" not in sending.log
