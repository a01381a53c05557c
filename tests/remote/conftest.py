"""A delivery to a domain whose exchanger is on this machine, in this process."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.programs import qmail_remote
from pyqmail.remote import attempts
from pyqmail.remote.exchangers import Candidate
from tests.certificates import self_signed, server_context
from tests.mail_sink import Answer, mail_sink
from tests.remote.policy_daemon import Answers, daemon, offers
from tests.scripted_peers import remote_home


@pytest.fixture
def deliver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., bytes]:
    """What makes a delivery to a domain, and returns its reports; keywords are control files."""
    pem = self_signed(tmp_path, "mx.x.test")
    (tmp_path / "home").mkdir()

    def run(answers: Answers, offer: Answer = offers, **controls: str) -> bytes:
        answer, exchanger, trusted = answers
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        with mail_sink(offer, context=server_context(pem)) as sink, daemon(answer) as port:
            # an exchanger in 127.0.0.0/8 would be this machine: the look-up is left out
            found = [Candidate(b"\x7f\0\0\1", 5, exchanger)]
            monkeypatch.setattr(attempts, "find_candidates", lambda *_: iter(found))
            monkeypatch.setattr(attempts, "SMTP_PORT", sink.port)
            home = remote_home(tmp_path / "home", **{"mtasts": f"inet:127.0.0.1:{port}", **controls})
            before = os.getcwd()
            try:
                words = [b"qmail-remote", b"x.test", b"", b"r@x.test"]
                assert qmail_remote.main(words, {b"QMAIL_HOME": os.fsencode(home)}) == 0
            finally:
                os.chdir(before)
            reports = capfdbinary.readouterr().out
            assert len(sink.taken) == reports.startswith(b"r\0K")
        return reports

    return run
