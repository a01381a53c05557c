"""Any bytes in any pieces: qmail-smtpd answers the same, queues the same, and never raises."""

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.incoming import decisions, smtp_connection
from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.smtp import SmtpSession
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.intake.client import Injection
from pyqmail.protocol.smtp_server import BareLineFeed, BodyDecoder, parse_address, parse_command
from pyqmail.stream.stream import Stream, StreamEnded
from tests.programs.smtp_hostile import session
from tests.programs.smtp_transcripts import transcripts


class Pieces(Stream):
    """A peer that says its words in pieces, and keeps the answers."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces = [piece for piece in reversed(pieces) if piece]
        self.said = b""

    def _send(self, data: bytes | bytearray) -> None:
        self.said += data

    def _receive(self) -> bytes:
        if not self._pieces:
            raise StreamEnded
        return self._pieces.pop()

    def _surrender(self) -> Stream:
        raise AssertionError

    def close(self) -> None: ...

    def until(self, deadline: float | None) -> None: ...


def converse(home: str, environ: dict[bytes, bytes], pieces: list[bytes]) -> tuple[object, bytes]:
    """How a session ends, and what it says."""
    stream = Pieces(pieces)
    settings = Settings(home, environ)
    try:
        end: object = SmtpSession(settings, stream, DecisionLog(b"qmail-smtpd", environ)).run()
    except smtp_connection.SessionEnd as over:
        end = b"" if over.reply is None else over.reply.line
        stream.flush()
    except StreamEnded:
        end = b""
    settings.close()
    return end, stream.said


class Answer:
    """Success, with the same number for the same message."""

    number = 7

    def __init__(self, failed: bool) -> None:
        self.failed = failed

    def letter_text(self) -> tuple[bytes, bytes]:
        return (b"Z", b"withheld") if self.failed else (b"K", b"")


Queued = tuple[bytes, bytes, tuple[bytes, ...], bool]  # text, sender, recipients, whether it was given up


class Queue:
    """Stands for the queue: what reached it."""

    def __init__(self, messages: list[Queued]) -> None:
        self.messages = messages
        self.text = b""
        self.failed = False

    def write(self, data: bytes) -> None:
        self.text += data

    def fail(self) -> None:
        self.failed = True

    def close(self, sender: bytes, recipients: list[bytes]) -> Answer:
        text = b"" if self.failed else self.text.partition(b" -0000\n")[2]
        self.messages.append((text, sender, tuple(recipients), self.failed))
        return Answer(self.failed)

    def abort(self) -> None:
        pass


class Home:
    """Controls that a session can have without any file of its own."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (home / "control").mkdir()
        texts = {"me": "mx.test", "rcpthosts": "here.test\n.sub.test", "databytes": "400", "chunking": "1"}
        for name, text in texts.items():
            (home / "control" / name).write_text(text + "\n")
        self.environ = {b"TCPREMOTEIP": b"192.0.2.7", b"QMAILQUEUE": b"none", b"QMAIL_HOME": bytes(home)}
        self.home = str(home)
        self.messages: list[Queued] = []
        monkeypatch.setattr(Injection, "open", lambda *_, **__: Queue(self.messages))
        monkeypatch.setattr(decisions, "log_mode", lambda _environ, sockets: 0)
        monkeypatch.setattr("pyqmail.incoming.letter.time.time", lambda: 1000000000.0)

    def hold(self, pieces: list[bytes]) -> tuple[object, bytes, list[Queued]]:
        """How a session ends, what it says, what it queues."""
        self.messages.clear()
        end, said = converse(self.home, self.environ, pieces)
        return end, said, list(self.messages)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Home(tmp_path_factory.mktemp("fuzz"), monkeypatch)


CORPUS = [each.client for each in transcripts() if "queue-exit" not in each.name]


def cut(wire: bytes, places: list[int]) -> list[bytes]:
    """``wire`` in pieces."""
    at = sorted({place % (len(wire) + 1) for place in places})
    return [wire[start:end] for start, end in zip([0, *at], [*at, len(wire)], strict=True)]


@given(
    st.one_of(
        st.integers(0, 2**32).map(session),
        st.builds(
            lambda wire, place, junk: wire[: place % (len(wire) + 1)] + junk + wire[place % (len(wire) + 1) :],
            st.sampled_from(CORPUS),
            st.integers(0, 10000),
            st.one_of(st.binary(max_size=4), st.sampled_from([b"\r", b"\n", b".", b"\r\n.\r\n", b"\n.\n", b"\0"])),
        ),
        st.binary(max_size=200),
    ),
    st.lists(st.integers(0, 100000), max_size=8),
)
def test_pieces_do_not_matter(home: Home, wire: bytes, places: list[int]) -> None:
    whole = home.hold([wire])
    assert home.hold(cut(wire, places)) == whole
    end, said, _ = whole
    assert end == 0 or isinstance(end, bytes)
    assert all(line[:3].isdigit() for line in said.split(b"\r\n")[:-1])


@pytest.mark.parametrize("wire", CORPUS, ids=range(len(CORPUS)))
def test_the_corpus_byte_by_byte(home: Home, wire: bytes) -> None:
    assert home.hold([wire[at : at + 1] for at in range(len(wire))]) == home.hold([wire])


@given(st.binary())
def test_any_line_is_a_command_and_any_argument_an_address(line: bytes) -> None:
    verb, argument = parse_command(line)
    address = parse_address(argument)
    assert len(address) <= len(argument) <= len(line) and b"\0" not in verb + address


def test_a_message_takes_no_memory_however_it_comes() -> None:
    decoder = BodyDecoder()
    rng = random.Random(1)
    tracemalloc.start()
    for _ in range(3000):
        decoder.feed(rng.choice((b"x" * 8192, b"Received: " + b"y" * 8000, b"\r\n.." * 2000, b".", b"\r", b"\r\n")))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400000, (held, peak)


def test_no_mix_of_cr_lf_dot_and_nul_hides_an_end(home: Home) -> None:
    """Whatever stands before it, a command in the text never becomes a command of the session."""
    ends = [
        a + b + c for a in (b"\r", b"\n", b"\0", b"") for b in (b".", b"\0.", b".\0") for c in (b"\r", b"\n", b"\r\n")
    ]
    before = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@here.test>\r\nDATA\r\ntext"
    for end in ends:
        wire = (
            before + end + b"MAIL FROM:<eve@client.test>\r\nRCPT TO:<d@here.test>\r\nDATA\r\nsmuggled\r\n.\r\nQUIT\r\n"
        )
        _, said, messages = home.hold([wire])
        assert len(messages) <= 1 and b"eve@" not in b"".join(each[1] for each in messages)
        assert said.count(b"354") == 1


@given(
    st.lists(
        st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"x", b"BDAT 0 LAST", b"QUIT", b"DATA", b"RSET"]), max_size=9
    ),
    st.sampled_from([b"", b"MAIL FROM:<a@b>\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@here.test>\r\n"]),
    st.booleans(),
)
def test_nothing_in_a_chunk_is_a_command(home: Home, parts: list[bytes], before: bytes, last: bool) -> None:
    text = b"".join(parts)
    chunk = b"BDAT %d%b\r\n" % (len(text), b" LAST" if last else b"") + text
    end, said, messages = home.hold([before + chunk + b"NOOP\r\n"])
    assert len(said.split(b"\r\n")) == 3 + before.count(b"\n") + 1 and said.endswith(b"\r\n250 ok\r\n"), said
    assert sum(not failed for *_, failed in messages) == (b"250 ok 1000000000 qp 7" in said)


def test_the_decoder_stops_at_the_first_bare_line_feed_wherever_the_pieces_end() -> None:
    wire = b"a\r\nb\nc\r\n.\r\n"
    for size in range(1, len(wire)):
        decoder = BodyDecoder()
        with pytest.raises(BareLineFeed):
            for at in range(0, len(wire), size):
                decoder.feed(wire[at : at + size])
