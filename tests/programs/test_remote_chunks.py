"""qmail-remote and BDAT: servers that can do it, and servers that only say so."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.loopback import serving
from tests.scripted_peers import _RUN as RUN
from tests.scripted_peers import REPO, remote_home

MODULE = "pyqmail.programs.qmail_remote"
SHORT = b"Subject: x\n\n.\n..\nQUIT\nMAIL FROM:<other@y.test>\n.\n"
LONG = SHORT + b"DATA\n.\nline\n" * 400_000
SAID = b"Remote host said: "


@dataclass
class Server:
    """One that offers CHUNKING. ``answer`` reads what follows a BDAT; the connection ends where it says None."""

    answer: "Callable[[Iterator[bytes], socket.socket, int], bytes | None]"
    commands: list[bytes] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    connections: int = 0

    def serve(self, line: socket.socket) -> None:
        """One connection."""
        self.connections += 1
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)  # who hangs up has not got a LONG one
        line.sendall(b"220 hi\r\n")
        file = line.makefile("rb")
        for command in file:
            self.commands.append(command)
            reply: bytes | None = b"250 ok\r\n"
            if command.startswith(b"EHLO"):
                reply = b"250-x\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 CHUNKING\r\n"
            elif command.startswith(b"BDAT"):
                _, size, last = command.split()
                assert last == b"LAST"
                reply = self.answer(file, line, int(size))
            elif command == b"DATA\r\n":
                line.sendall(b"354 go\r\n")
                lines = list(iter(partial(next, file, b".\r\n"), b".\r\n"))
                self.texts.append(b"".join(lines))
            if reply is None:
                return
            line.sendall(reply)


def send(directory: Path, answer: Callable[..., bytes | None], text: bytes, **controls: str) -> tuple[bytes, Server]:
    """The reports, and the server that caused them."""
    server = Server(answer)
    (directory / "message").write_bytes(text)
    with serving(server.serve) as port, (directory / "message").open("rb") as file:
        settings = {"smtproutes": f":127.0.0.1:{port}", "remotechunking": "1", **controls}
        home = remote_home(directory, **settings)
        words = [sys.executable, "-c", RUN, str(REPO), MODULE, "x.test", "s@y.test", "r@x.test"]
        environ = {"QMAIL_HOME": str(home)}
        done = subprocess.run(words, stdin=file, stdout=subprocess.PIPE, env=environ, check=True, timeout=60)
    return done.stdout, server


def takes(reply: bytes = b"250- counted\r\n250 taken\r\n") -> Callable[..., bytes]:
    """Take the octets and say ``reply``."""
    return lambda file, line, size: (file.read(size), reply)[1]


@pytest.mark.parametrize("text", [SHORT, LONG, b"\n\xe9\n"], ids=["short", "long", "8-bit"])
def test_a_message_goes_as_one_counted_chunk(tmp_path: Path, text: bytes) -> None:
    heard = []
    answer = lambda file, line, size: (heard.append(file.read(size)), b"250 taken\r\n")[1]  # noqa: E731
    reports, server = send(tmp_path, answer, text)
    assert reports == b"r\0K127.0.0.1 accepted message.\n" + SAID + b"250 taken\n\0"
    assert heard == [text.replace(b"\n", b"\r\n")]
    mail = b"MAIL FROM:<s@y.test>" + (b"" if text.isascii() else b" BODY=8BITMIME") + b"\r\n"
    bdat = b"BDAT %d LAST\r\n" % len(heard[0])
    assert server.commands == [b"EHLO me.test\r\n", mail, b"RCPT TO:<r@x.test>\r\n", bdat, b"QUIT\r\n"]


@pytest.mark.parametrize(
    ("text", "controls"),
    [
        pytest.param(b"a\r\n.\r\nb\n", {}, id="a CR"),
        pytest.param(b"", {}, id="nothing"),
        pytest.param(b"Subject: x\nX: y\n" * 5000 + b"\n", {}, id="a header longer than a piece"),
        pytest.param(b"Subject: x\nno colon here\nbody\n", {}, id="no empty line"),
        pytest.param(SHORT, {"remotechunking": "0"}, id="not wanted"),
    ],
)
def test_everything_else_goes_by_data(tmp_path: Path, text: bytes, controls: dict[str, str]) -> None:
    reports, server = send(tmp_path, takes(), text, **controls)
    assert reports.startswith(b"r\0K")
    (wire,) = server.texts
    assert wire.replace(b"\r\n..", b"\r\n.").count(b"\r\n") == text.count(b"\n")


def test_a_partial_last_line_is_no_chunk_either(tmp_path: Path) -> None:
    reports, server = send(tmp_path, takes(), b"a\nb")
    assert reports == b"r\0DSMTP cannot transfer messages with partial final lines. (#5.6.2)\n\0"
    assert not any(line.startswith(b"BDAT") for line in server.commands)


def looks_for_the_end_of_the_header(file: Iterator[bytes], line: socket.socket, size: int) -> bytes:
    """What follows is read as the message, to a dot, where the chunk ended within its header."""
    text = file.read(size)
    if b"\r\n\r\n" not in text and not text.startswith(b"\r\n"):
        list(iter(partial(next, file, b".\r\n"), b".\r\n"))
    return b"250 taken\r\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param(b"Subject: x\n", b"DATA\r\n", id="a header alone"),
        pytest.param(b"Subject: x\n\tmore\n", b"DATA\r\n", id="a folded one"),
        pytest.param(b"no colon here\n", b"DATA\r\n", id="one line"),
        pytest.param(b"Subject: x\n\n", b"BDAT 14 LAST\r\n", id="an empty body"),
        pytest.param(b"\n", b"BDAT 2 LAST\r\n", id="an empty line"),
        pytest.param(b"\nbody\n", b"BDAT 8 LAST\r\n", id="an empty header"),
    ],
)
def test_a_server_that_waits_behind_a_header_alone_has_it_by_data(tmp_path: Path, text: bytes, word: bytes) -> None:
    reports, server = send(tmp_path, looks_for_the_end_of_the_header, text, timeoutremote="20")
    assert reports.startswith(b"r\0K"), reports
    assert server.commands[3] == word and server.connections == 1


def takes_octets_for_commands(file: Iterator[bytes], line: socket.socket, size: int) -> None:
    line.sendall(b"502 what?\r\n")
    for _ in range(3):
        next(file)
        line.sendall(b"500 what?\r\n")


def hangs_up_at_once(file: Iterator[bytes], line: socket.socket, size: int) -> None:
    next(file)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        pytest.param(takes_octets_for_commands, SHORT, id="octets are commands"),
        pytest.param(takes_octets_for_commands, LONG, id="and then it hangs up"),
        pytest.param(hangs_up_at_once, LONG, id="hangs up within the chunk"),
        pytest.param(takes(b"504 no\r\n"), SHORT, id="reads it and knows nothing"),
    ],
)
def test_who_offers_chunking_and_cannot_has_the_message_by_data_at_once(
    tmp_path: Path, answer: Callable[..., bytes | None], text: bytes
) -> None:
    reports, server = send(tmp_path, answer, text)
    assert reports == b"r\0K127.0.0.1 accepted message.\n" + SAID + b"250 ok\n\0"
    assert server.connections == 2
    assert server.texts == [text.replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")]


@pytest.mark.parametrize(
    ("answer", "report"),
    [
        pytest.param(takes(b"552 5.3.4 big\r\n"), b"D127.0.0.1 failed after I sent", id="too big"),
        pytest.param(takes(b"451 later\r\n"), b"Z127.0.0.1 failed after I sent", id="later"),
        pytest.param(
            lambda file, line, size: (file.read(size), None)[1],
            b"ZConnected to 127.0.0.1 but connection died. Possible duplicate! (#4.4.2)",
            id="it has all of it and hangs up",
        ),
    ],
)
def test_what_became_of_a_whole_chunk_is_not_tried_again_at_once(
    tmp_path: Path, answer: Callable[..., bytes | None], report: bytes
) -> None:
    reports, server = send(tmp_path, answer, LONG)
    assert reports.startswith(b"r\0" + report) and server.connections == 1 and not server.texts
