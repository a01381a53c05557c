"""Golden SMTP conversations as data: tests/transcripts/smtpd/*.txt, one file each, its name the claim.

    # remark                      rows: smtpd 4.1, smtpd 4.2     what of the contract it shows
    control NAME: text            a control file (me and rcpthosts are there already); `no control: NAME` removes one
    env NAME=text                 a variable of the session
    queue: CODE [text]            what the queue program exits with (killed: a signal), and its text on descriptor 6
    deviation: why                the original answers otherwise
    C: line   C> bytes            the client sends a line with CR LF, or bytes as they are
    S: line                       the server answers; TIME and NUMBER stand for digits
    sender: recipient: text:      the last message that reached the queue, a line of text with LF; `text>` as it is
    queued: nothing               no message reached the queue
    log: line                     the first line of the log, without the program's name
    exit: N                       how it ends after the client has

Escapes: \\r \\n \\0 \\t \\\\ \\xHH, and {text*N} for repetition.
"""

import gc
import os
import re
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "transcripts" / "smtpd"
DEADLINE_S = 30.0
QUEUE = """#!/bin/sh
cd '{base}'
cat >message.$$
cat <&1 >envelope.$$
{text}[ -s envelope.$$ ] || exit 91
mv message.$$ message
mv envelope.$$ envelope
{end}
"""
ESCAPES = {"r": "\r", "n": "\n", "0": "\0", "t": "\t", "\\": "\\"}


def unescape(text: str) -> bytes:
    """The bytes that ``text`` stands for."""

    def one(match: re.Match[str]) -> str:
        return chr(int(match[1][1:], 16)) if match[1][0] == "x" else ESCAPES[match[1]]

    def repeat(match: re.Match[str]) -> str:
        return match[1] * int(match[2])

    text = re.sub(r"\{([^{}]*)\*(\d+)\}", repeat, text)
    return re.sub(r"\\(x[0-9a-f]{2}|.)", one, text).encode("latin-1")


def pattern(text: str) -> bytes:
    """A regular expression for a line with placeholders."""
    return re.escape(unescape(text)).replace(b"TIME", rb"\d+").replace(b"NUMBER", rb"\d+")


class Transcript:
    """One file."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.rows: list[str] = []
        self.controls = {"me": b"mx.test\n", "rcpthosts": b"here.test\n"}
        self.environ: dict[str, str] = {}
        self.queue = ("0", "")
        self.deviation = ""
        self.turns: list[tuple[str, bytes]] = []  # C bytes, or S pattern
        self.envelope: bytes | None = None
        self.text: bytes | None = None
        self.queues_nothing = False
        self.log: bytes | None = None
        self.exit = -1
        for line in path.read_text().splitlines():
            self._line(line)
        if self.envelope is not None:
            self.envelope += b"\0"
            self.text = self.text or b""

    def _line(self, line: str) -> None:
        key, colon, value = re.match(r"([^:>=]*)([:>=]?) ?(.*)", line).groups()  # type: ignore[union-attr]
        word, _, rest = key.partition(" ")
        if not line or line.startswith("#"):
            return
        if key in ("C", "S"):
            data = pattern(value) + b"\r\n" if key == "S" else unescape(value) + (b"" if colon == ">" else b"\r\n")
            self.turns.append((key, data))
        elif key == "rows":
            self.rows = [row.strip() for row in value.split(",")]
        elif word == "control":
            self.controls[rest] = unescape(value) + b"\n"
        elif key == "no control":
            del self.controls[value]
        elif word == "env":
            self.environ[rest] = value
        elif key == "queue":
            code, _, text = value.partition(" ")
            self.queue = (code, text)
        elif key == "deviation":
            self.deviation = value
        elif key == "sender":
            self.envelope = b"F" + unescape(value) + b"\0"
        elif key == "recipient" and self.envelope is not None:
            self.envelope += b"T" + unescape(value) + b"\0"
        elif key == "text":
            self.text = (self.text or b"") + unescape(value) + (b"" if colon == ">" else b"\n")
        elif key == "queued":
            self.queues_nothing = True
        elif key == "log":
            self.log = b"qmail-smtpd: " + pattern(value) + b"\n"
        elif key == "exit":
            self.exit = int(value)
        else:
            raise AssertionError(f"not a line of a transcript: {line!r}")

    @property
    def client(self) -> bytes:
        """Everything that the client says."""
        return b"".join(data for who, data in self.turns if who == "C")

    @property
    def server(self) -> bytes:
        """A pattern of everything that the server says."""
        return b"".join(data for who, data in self.turns if who == "S")

    def write_home(self, base: Path) -> dict[str, str]:
        """Control files and the queue program below ``base``; the environment of the session."""
        (base / "control").mkdir(exist_ok=True)
        for name, data in self.controls.items():
            (base / "control" / name).write_bytes(data)
        code, words = self.queue
        end = "kill -9 $$" if code == "killed" else f"exit {code}"
        said = f"printf %s '{words}' >&6\n" if words else ""
        program = base / "queue-program"
        program.write_text(QUEUE.format(base=base, text=said, end=end))
        program.chmod(0o755)
        return {
            "QMAIL_HOME": str(base),
            "QMAILQUEUE": str(program),
            "PATH": "/usr/bin:/bin",
            "TCPREMOTEIP": "192.0.2.7",
            "TCPLOCALHOST": "mx.test",
            **self.environ,
        }


Start = Callable[[int, int, Mapping[str, str]], int]  # socket, log, environment -> pid


def fork_ours(connection: int, log: int, environ: Mapping[str, str]) -> int:
    """Our qmail-smtpd in a forked child, as a worker of tcpserver runs it."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        from pyqmail.programs import qmail_smtpd

        for target, fd in ((0, connection), (1, connection), (2, log)):
            os.dup2(fd, target)
        os.closerange(3, 1024)
        gc.freeze()  # garbage of the parent's, collected here, would close what has its numbers now
        code = qmail_smtpd.main([b"qmail-smtpd"], {os.fsencode(k): os.fsencode(v) for k, v in environ.items()})
    except BaseException as error:
        os.write(2, repr(error).encode())
    finally:
        os._exit(code)


class Run:
    """One conversation with one server."""

    def __init__(self, transcript: Transcript, base: Path, start: Start) -> None:
        environ = transcript.write_home(base)
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(DEADLINE_S)
        self._log = base / "log"
        with theirs, self._log.open("wb") as log:
            self._pid = start(theirs.fileno(), log.fileno(), environ)
        self.heard = b""

    def all_at_once(self, transcript: Transcript) -> None:
        """Say everything, then close our side, then listen."""
        self.say(transcript.client)

    def say(self, wire: bytes) -> None:
        """Say ``wire``, then close our side, then listen."""
        try:
            self._socket.sendall(wire)
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server has ended already
        self._listen()

    def in_turns(self, transcript: Transcript) -> None:
        """Say the next thing only when the answers to the ones before have come."""
        for who, data in transcript.turns:
            if who == "S":
                while not re.match(data, self.heard[self.heard_at :], re.DOTALL) and self._hear():
                    pass
                match = re.match(data, self.heard[self.heard_at :], re.DOTALL)
                assert match, (data, self.heard[self.heard_at :])
                self.heard_at += match.end()
            else:
                try:
                    self._socket.sendall(data)
                except OSError:
                    break
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._listen()

    heard_at = 0

    def byte_by_byte(self, transcript: Transcript) -> None:
        """Say everything in the smallest pieces."""
        try:
            for at in range(len(transcript.client)):
                self._socket.sendall(transcript.client[at : at + 1])
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._listen()

    def _hear(self) -> bool:
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.heard += data
        return bool(data)

    def _listen(self) -> None:
        while self._hear():
            pass

    def end(self) -> tuple[int, bytes]:
        """Exit code and log."""
        self._socket.close()
        deadline = time.monotonic() + DEADLINE_S
        watch = os.pidfd_open(self._pid)
        assert select.select([watch], [], [], deadline - time.monotonic())[0], "the server does not end"
        os.close(watch)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]), self._log.read_bytes()


def transcripts() -> list[Transcript]:
    """All of them, in a fixed order."""
    return [Transcript(path) for path in sorted(FOLDER.glob("*.txt"))]


def check(transcript: Transcript, base: Path, start: Start, how: str, *, logs: bool = True) -> None:
    """Hold the conversation and compare everything that the file says."""
    run = Run(transcript, base, start)
    getattr(run, how)(transcript)
    code, log = run.end()
    assert re.fullmatch(transcript.server, run.heard, re.DOTALL), run.heard.decode("latin-1")
    assert code == transcript.exit, log
    if transcript.envelope is not None:
        assert (base / "envelope").read_bytes() == transcript.envelope
        message = (base / "message").read_bytes()
        head, _, text = message.partition(b" -0000\n")
        assert head.startswith(b"Received: from unknown ")
        assert text == transcript.text
    if transcript.queues_nothing:
        assert not (base / "envelope").exists()
    if logs and transcript.log is not None:
        assert re.match(transcript.log, log), log
    if logs:
        assert b"Error" not in log and b"Traceback" not in log, log


if __name__ == "__main__":
    sys.exit("run by test_smtp_transcripts.py")
