"""A hundred messages of odd shapes through qmail-rspawn and qmail-remote to Postfix, Exim and OpenSMTPD.

Each server must store exactly what it stores when the bytes that qmail would send come from a plain client: the table
of remote.md section 5, written down here once more and independently.
"""

import os
import random
import shutil
import socket
from collections.abc import Iterator

import pytest

from tests.integration.receivers import DOMAIN, Exim, Opensmtpd, Postfix, Receiver, running, unpacked
from tests.programs.spawn_bench import Home, Spawn, install
from tests.waiting import wait_for

HEADER = b"From: <s@sender.test>\nTo: <r@peer.test>\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nMessage-ID: <1@x>\n"
PIECE = 65536  # what qmail-remote reads at a time: shapes that lie across this border
COUNT = 100
WAYS = ("ours", "plain", "chunk")  # boxes: what qmail-remote sends by DATA, a plain client, qmail-remote with BDAT


def shapes() -> list[bytes]:
    """The messages, always the same."""
    text = [
        b"", b"\n", b"\n\n", b"no header\n", b".\n", b"..\n", b"...\n", b".leading\n", b"a\n.\nb\n", b"a\n..\nb\n",
        b"a\n.b\n..c\n...d\n", b"\xe9\xe8\xff 8-bit\n", "caf\u00e9 \u65e5\u672c\n".encode(), b"\x80" * 300 + b"\n",
        b"a\0b\n", b"\0\n", b"\0" * 100 + b"\n", b"crlf\r\nline\r\n", b"bare\rcr\n", b"cr cr lf\r\r\n", b"end cr\r",
        b"bare\r.dot\n", b"bare\r.\r\nRCPT TO:<x>\n", b"\r.\n", b"\r\n.\r\n", b"\r\r.\n", b"trailing  \t \n", b"\t\n",
        b"From here\n>From there\n", b"QUIT\nRSET\nDATA\n", b"x" * 997 + b"\n", b"x" * 998 + b"\n", b"x" * 999 + b"\n",
        b"x" * 1999 + b"\n", b"y" * 5000 + b"\n", b"." * 5000 + b"\n", b"z" * 70_000 + b"\n", b"\n" * 5000,
        b"a\n" * 40_000, b".\n" * 40_000,
        b"partial", b"a\npartial line", b"a\n.", b"\x01\x02\x1b[2J\x7f\n", b"=20\n=\n", b" leading\n",
    ]  # fmt: skip
    messages = [HEADER + b"\n" + body for body in text]
    messages += [
        b"",
        b"\n",
        b"no colon here\n",
        b"X:\n",
        b"Subject: only a header\n",
        b"Subject: folded\n\tmore\n\nx\n",
    ]
    for offset in range(-3, 3):  # a dot, a CR, a line end at the border between two pieces
        for body in (b".dot\n", b"\r\nx\n", b"\r.x\n", b"\n.\n"):
            head = HEADER + b"\n"
            filler = b"0123456789abcdef" * 4 + b"\n"
            filling = filler * 2000
            messages.append((head + filling)[: PIECE + offset - 1] + b"\n" + body)
    noise = random.Random(20240101)
    while len(messages) < COUNT - 1:
        alphabet = noise.choice([b"a.\r\n", b"abc .\n\r\0\xe9", b"\r\n", bytes(range(256))])
        body = bytes(noise.choice(alphabet) for _ in range(noise.randrange(3000)))
        messages.append(HEADER + b"\n" + body + b"\n")
    line = b"abcdefghijklmnopqrstuvwxyz" * 2 + b"\n"
    messages.append(HEADER + b"\n" + (line * (31_457_280 // len(line) + 1)))
    assert len(messages) == COUNT
    return messages


def wire_form(message: bytes) -> bytes | None:
    """What follows DATA, one byte after another; None for a partial final line, which is not sent at all."""
    lines, line, place = [], bytearray(), 0
    while place < len(message):
        byte = message[place]
        place += 1
        if (
            byte == 13
        ):  # CR: a line end; of a following LF nothing is left, any other byte begins the next line as it is
            lines.append(bytes(line))
            line = bytearray()
            if place < len(message):
                if message[place] != 10:
                    line.append(message[place])
                place += 1
        elif byte == 10:
            lines.append(bytes(line))
            line = bytearray()
        else:
            line.append(byte)
    if line:
        return None
    out = bytearray()
    for one in lines:
        # a line start is also what a lenient reader could see after a CR that stands as it is
        one = one.replace(b"\r.", b"\r..")
        out += (b"." if one.startswith(b".") else b"") + one + b"\r\n"
    return bytes(out) + b".\r\n"


def chunkable(message: bytes) -> bool:
    """Whether qmail-remote gives it as a chunk: lines that end in LF alone, an empty one behind the header."""
    return message.endswith(b"\n") and b"\r" not in message and b"\n\n" in b"\n" + message


def say(port: int, box: str, wire: bytes) -> int:
    """Send ``wire`` as a plain client would; the code of the last reply, 0 if the server hangs up on it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line, line.makefile("rb") as replies:

        def reply() -> int:
            while True:
                text = replies.readline()
                if not text:
                    raise ConnectionResetError
                if text[3:4] != b"-":
                    return int(text[:3])

        assert reply() == 220
        for command in ("HELO me.test", "MAIL FROM:<s@sender.test>", f"RCPT TO:<{box}@{DOMAIN}>", "DATA"):
            line.sendall(command.encode() + b"\r\n")
            code = reply()
            assert code < 400, (command, code)
        try:
            line.sendall(wire)
            code = reply()
            line.sendall(b"QUIT\r\n")
        except ConnectionError:
            return 0
        return code


@pytest.fixture(scope="module", params=[Postfix, Exim, Opensmtpd], ids=["Postfix", "Exim", "OpenSMTPD"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if request.param is Postfix and shutil.which("postfix", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("needs postfix")
    if request.param is Exim and not unpacked("exim4"):
        pytest.skip("needs an unpacked exim4")
    if request.param is Opensmtpd and not unpacked("smtpd"):
        pytest.skip("needs an unpacked opensmtpd")
    yield from running(request.param, [f"{who}{number:03d}" for who in WAYS for number in range(COUNT)])


@pytest.fixture
def home() -> Iterator[Home]:
    home = Home()
    yield home
    home.close()


@pytest.fixture
def spawn(receiver: Receiver, home: Home) -> Iterator[Spawn]:
    """A qmail-rspawn with our qmail-remote in warm workers, and the messages 0/1000 and up."""
    install(home.path / "bin/qmail-remote", "qmail_remote")
    (home.path / "control/me").write_text("me.test\n")
    (home.path / "control/smtproutes").write_text(f":127.0.0.1:{receiver.port}\n")
    for number, message in enumerate(shapes()):
        home.message(f"0/{1000 + number}", message)
    running_spawn = Spawn(home, "qmail-rspawn")
    yield running_spawn
    running_spawn.end()


@pytest.mark.contract(
    "remote 1.2", "remote 5.9", "remote 5.10", "remote 5.11", "remote 5.12", "remote 5.13", "remote 5.14"
)
@pytest.mark.contract("remote 5.15", "remote 5.16", "remote 1.17")
def test_each_message_is_stored_as_if_another_qmail_had_sent_it(receiver: Receiver, home: Home, spawn: Spawn) -> None:
    messages = shapes()
    for number in range(COUNT):
        spawn.send(number, f"ours{number:03d}@{DOMAIN}", message=f"0/{1000 + number}", sender="s@sender.test")
    reports = {report.slot: report for report in (spawn.report() for _ in range(COUNT))}
    kept = []
    for number, message in enumerate(messages):
        report, wire = reports[number], wire_form(message)
        if wire is None:
            assert (report.letter, report.text[-9:]) == (b"D", b"(#5.6.2)\n"), number
            continue
        code = say(receiver.port, f"plain{number:03d}", wire)
        if code == 0:  # it refuses a line and does not listen any more: who hears the refusal is a matter of luck
            assert report.letter in (b"Z", b"D"), (number, report)
            continue
        expected = b"K" if code < 400 else b"D" if code >= 500 else b"Z"
        assert report.letter == expected, (number, message[:80], code, report)
        if expected == b"K":
            kept.append(number)
    assert len(kept) > COUNT // 2
    chunks = [] if isinstance(receiver, Opensmtpd) else kept[:-1]
    (home.path / "control/remotechunking").write_text("1\n")
    for number in chunks:
        spawn.send(number, f"chunk{number:03d}@{DOMAIN}", message=f"0/{1000 + number}", sender="s@sender.test")
    for report in [spawn.report() for _ in chunks]:
        counted = b" byte" in report.text  # as both answer to BDAT
        assert (report.letter, counted) == (b"K", chunkable(messages[report.slot])), report
    for number in kept:
        boxes = [f"{way}{number:03d}" for way in (WAYS if number in chunks else WAYS[:2])]
        wait_for(lambda boxes=boxes: all(receiver.stored(box) is not None for box in boxes), f"message {number}")  # type: ignore[misc]
        assert len({receiver.stored(box) for box in boxes}) == 1, (number, messages[number][:100])
