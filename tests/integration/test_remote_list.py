"""A message to many recipients behind one host, through the whole chain, with remotebatch and remotereuse on."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.admin.first_controls import RECOMMENDED
from tests.integration.conftest import USER
from tests.integration.mailhost import MailHost, messages
from tests.mail_sink import MailSink, Transaction, accept_all, mail_sink
from tests.waiting import wait_for


def picky(line: bytes, transaction: Transaction) -> bytes | None:
    """No mailbox whose name begins with bad."""
    return b"550 no such mailbox\r\n" if b"<bad" in line else accept_all(line, transaction)


@pytest.fixture
def sink() -> Iterator[MailSink]:
    with mail_sink(picky) as made:
        yield made


@pytest.fixture
def routed(host: MailHost, sink: MailSink) -> Iterator[MailHost]:
    """The host with a route to the sink, and transactions and connections shared."""
    controls = {"smtproutes": f":127.0.0.1:{sink.port}", "remotebatch": "50", "remotereuse": "2"}
    for name, text in controls.items():
        (host.home / "control" / name).write_text(text + "\n")
    yield host
    for name in controls:
        (host.home / "control" / name).unlink()


def test_every_recipient_is_served_once_and_the_bounce_names_those_that_were_refused(
    routed: MailHost, sink: MailSink, maildir: Path
) -> None:
    good = [f"good{number}@list.test" for number in range(90)]
    bad = [f"bad{number}@list.test" for number in range(10)]
    command = [str(routed.home / "bin" / "sendmail"), "-f", f"{USER}@example.test"]
    recipients = [name for pair in zip(good, bad * 9, strict=True) for name in pair]
    everybody = sorted(set(recipients), key=recipients.index)
    subprocess.run(
        [*command, *everybody], input=b"Subject: list\n\nhello\n", check=True, env=routed.environ(), timeout=60
    )
    wait_for(lambda: len(os.listdir(maildir / "new")) == 1 and routed.queued() == 0, "the bounce and an empty queue")
    taken = [name for one in sink.taken for name in one.recipients]
    assert sorted(taken) == sorted(f"<{name}>".encode() for name in good)
    assert len(sink.taken) < 45, "hardly anything was joined"
    (bounce,) = messages(maildir)
    text = bounce.get_payload()
    assert isinstance(text, str)
    assert all(f"<{name}>:" in text for name in bad) and not any(f"<{name}>:" in text for name in good)
    log = routed.log.read_text()
    assert log.count("success: 127.0.0.1_accepted_message.") == len(good)
    assert log.count("failure: 127.0.0.1_does_not_like_recipient.") == len(bad)


def test_in_a_new_tree_recipients_at_one_host_share_transactions(host: MailHost, sink: MailSink) -> None:
    """1,000 of them take 20 transactions, and a tenth of the time that a transaction for each takes."""
    controls = {"smtproutes": f":127.0.0.1:{sink.port}\n".encode(), **RECOMMENDED}
    for name, data in controls.items():
        (host.home / "control" / name).write_bytes(data)
    os.kill(host.started[0].pid, signal.SIGHUP)  # qmail-start became qmail-send
    try:
        everybody = [f"box{number}@list.test" for number in range(100)]
        command = [str(host.home / "bin" / "sendmail"), "-f", "", *everybody]
        subprocess.run(command, input=b"Subject: list\n\nhello\n", check=True, env=host.environ(), timeout=60)
        wait_for(lambda: host.queued() == 0, "an empty queue")
        taken = [name for one in sink.taken for name in one.recipients]
        assert sorted(taken) == sorted(f"<{name}>".encode() for name in everybody)
        assert [len(one.recipients) for one in sink.taken] == [50, 50] and sink.connections <= 2
    finally:
        for name in controls:
            (host.home / "control" / name).unlink()
        os.kill(host.started[0].pid, signal.SIGHUP)
