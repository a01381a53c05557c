"""Recipients of domains that end in LMTP, asked of servers of all kinds."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.incoming import lmtp_recipient
from pyqmail.incoming.check import Rules
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.lmtp_recipient import Answers, LmtpRecipient, says_nobody
from pyqmail.incoming.refusals import NOBODY
from pyqmail.protocol.smtp_replies import Reply
from pyqmail.remote.routes import parse_route
from tests.mail_sink import MailSink, Transaction, accept_all, mail_sink

STRANGER, RELAY = Client(b"192.0.2.1", b"x", None), Client(b"192.0.2.1", b"x", None, relay=b"")
UNKNOWN = b"550 5.1.1 nobody here\r\n"


class Clock:
    """One that is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(LmtpRecipient, "answers", Answers(made))
    monkeypatch.setattr(lmtp_recipient, "ANSWER_S", 2.0)
    return made


def knows_ann(line: bytes, transaction: Transaction) -> bytes | None:
    """An LMTP server with one user."""
    return UNKNOWN if line.startswith(b"RCPT") and b"<ann@" not in line else accept_all(line, transaction)


@pytest.fixture
def server() -> Iterator[MailSink]:
    with mail_sink(knows_ann) as sink:
        yield sink


def refused(home: Path, address: bytes, client: Client = STRANGER, **controls: str) -> bool:
    """Whether a new session refuses ``address`` for want of such a user."""
    (home / "control").mkdir(exist_ok=True)
    for name, text in controls.items():
        (home / "control" / name).write_text(text + "\n")
    check = LmtpRecipient(Rules(str(home), {}))
    verdict = check.recipient(client, Letter(0, b""), address) if check.active else None
    assert verdict is None or verdict.reply is NOBODY
    return verdict is not None


def test_who_is_not_there_is_refused_and_not_asked_about_again(tmp_path: Path, clock: Clock, server: MailSink) -> None:
    routes = f"x.test:[127.0.0.1]:{server.port}/lmtp"
    for _ in range(2):
        assert refused(tmp_path, b"ben@X.test", smtproutes=routes)
        assert not refused(tmp_path, b"ann@x.test") and not refused(tmp_path, b"ben@y.test")
    assert server.connections == 2 and b"LHLO localhost\r\n" in server.lines
    clock.now += 61
    assert refused(tmp_path, b"ben@x.test") and not refused(tmp_path, b"ann@x.test")
    assert server.connections == 3, "a yes is kept for longer"
    assert not any(line.startswith(b"DATA") for line in server.lines)


@pytest.mark.parametrize(
    ("client", "controls"),
    [
        pytest.param(RELAY, {}, id="of a relay client"),
        pytest.param(STRANGER, {"rcptcheck": "off"}, id="where nobody is to be asked"),
        pytest.param(STRANGER, {"tlsdestinations": "*:encrypt"}, id="where TLS may be wanted"),
        pytest.param(STRANGER, {"smtproutes": "x.test:[127.0.0.1]:PORT"}, id="by a route that is not LMTP"),
        pytest.param(STRANGER, {"smtproutes": "x.test:[127.0.0.1]:PORT/lmtp/clear|u|p"}, id="that needs a login"),
    ],
)
@pytest.mark.usefixtures("clock")
def test_about_whom_nobody_is_asked(tmp_path: Path, server: MailSink, client: Client, controls: dict[str, str]) -> None:
    given = {"smtproutes": "x.test:[127.0.0.1]:PORT/lmtp", **controls}
    texts = {name: text.replace("PORT", str(server.port)) for name, text in given.items()}
    assert not refused(tmp_path, b"ben@x.test", client, **texts) and server.connections == 0


@pytest.mark.parametrize("how", ["refuses", "hangs up", "says nothing", "is busy", "is full"])
def test_only_a_server_that_says_no_refuses(tmp_path: Path, clock: Clock, how: str) -> None:
    def answer(line: bytes, transaction: Transaction) -> bytes | None:
        if line.startswith(b"RCPT"):
            known = {"hangs up": None, "says nothing": b"", "is busy": b"451 4.3.0 later\r\n"}
            return known.get(how, b"550 5.2.2 full\r\n")
        return b"500 what\r\n" if how == "refuses" else accept_all(line, transaction)

    with mail_sink(answer) as sink:
        for box in (b"a", b"b"):
            assert not refused(tmp_path, box + b"@x.test", smtproutes=f"x.test:[127.0.0.1]:{sink.port}/lmtp")
        again = 2 if how in ("is busy", "is full") else 1
        assert sink.connections == again, "one that gives no answer is left alone for a minute"
        clock.now += 61
        assert not refused(tmp_path, b"c@x.test")
        assert sink.connections == again + 1


@pytest.mark.usefixtures("clock")
def test_a_socket_is_asked_too_and_one_that_is_not_there_refuses_nobody(tmp_path: Path) -> None:
    assert not refused(tmp_path, b"a@x.test", smtproutes=f"x.test:[127.0.0.1]:1/lmtp={tmp_path}/none")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "lmtp"))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as line:
                line.sendall(b"220 x\r\n250 x\r\n250 x\r\n" + UNKNOWN)
                while line.recv(1000):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        # the first was away, and that is another place
        assert refused(tmp_path, b"a@x.test", smtproutes=f"x.test:[127.0.0.1]:1/lmtp={tmp_path}/lmtp")
        thread.join()


@pytest.mark.parametrize(
    ("text", "nobody"),
    [
        (b"550 5.1.1 no", True),
        (b"550 no such user", True),
        (b"553 5.1.3 bad", True),
        (b"550 5.7.1 not you", False),
        (b"552 5.2.2 full", False),
        (b"451 4.1.1 later", False),
    ],
)
def test_what_is_a_no(text: bytes, nobody: bool) -> None:
    assert says_nobody(Reply(int(text[:3]), text + b"\n")) is nobody


def test_so_many_answers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmtp_recipient, "KEPT_MAX", 2)
    answers, route = Answers(lambda: 1.0), parse_route(b"[127.0.0.1]:1/lmtp")
    assert route is not None
    for name in (b"a", b"b", b"c"):
        answers.put(route, name, exists=True, kept_s=9)
    assert [answers.get(route, name) for name in (b"a", b"b", b"c")] == [None, True, True]
