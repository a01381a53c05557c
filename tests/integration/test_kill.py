"""Any one process killed in the middle of 200 messages: nothing is lost, audited by the hash of each body."""

import os
import pwd
import signal
import smtplib
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.conftest import USER
from tests.integration.mailhost import MailHost, body_hash, messages
from tests.waiting import wait_for

ADDRESS = f"{USER}@example.test"
COUNT = 200
VICTIMS = ["qmail-send", "qmail-lspawn", "qmail-rspawn", "qmail-clean", "qmail-queued", "qmail-queue", "qmail-local",
           "tcpserver", "qmail-smtpd"]  # fmt: skip


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def victim(host: MailHost, name: str) -> int | None:
    """A process of ``host`` that runs program ``name``."""
    for pid in host.pids():
        words = title(pid).split(" ")
        if name in [word.rpartition("/")[2] for word in words[:3]] and "tcpserver" not in words[0].rpartition("/")[2]:
            return pid
        if name == "tcpserver" and any(word.endswith("/tcpserver") for word in words[:3]):
            return pid
    return None


def restart_what_died(host: MailHost) -> None:
    """What a supervisor does: a dead service is started again."""
    host.stop()
    host.log.write_bytes(b"")
    host.start_delivery()
    host.start_smtp()


@pytest.mark.parametrize("name", VICTIMS)
def test_killing_it_loses_nothing(host: MailHost, maildir: Path, name: str) -> None:
    acknowledged: set[str] = set()
    killed = False
    number = 0
    while len(acknowledged) < COUNT:
        number += 1
        assert number < COUNT * 3, "too many refused submissions"
        body = f"message {number} {os.urandom(8).hex()}\n"
        try:
            with smtplib.SMTP("127.0.0.1", host.port, timeout=30) as client:
                client.sendmail("ann@client.test", [ADDRESS], f"Subject: x\r\n\r\n{body}")
            acknowledged.add(body_hash(body.encode()))
        except (smtplib.SMTPException, OSError):
            restart_what_died(host)
        if len(acknowledged) >= COUNT // 2 and not killed:
            pid = victim(host, name)
            if pid is not None:
                with suppress(ProcessLookupError):  # it has ended since
                    os.kill(pid, signal.SIGKILL)
                    killed = True
    assert killed or name == "qmail-queue", f"no {name} was seen"
    restart_what_died(host)

    def arrived() -> set[str]:
        found = set()
        for message in messages(maildir):
            text = message.get_payload(decode=True)
            assert isinstance(text, bytes)
            found.add(body_hash(text))
        return found

    def complete() -> bool:
        send = victim(host, "qmail-send")
        if send is not None:
            os.kill(send, signal.SIGALRM)  # a delivery that died with its process is deferred: do not wait for its time
        queue = host.home / "queue"
        return acknowledged <= arrived() and not list(queue.glob("todo/*")) and not list(queue.glob("info/*/*"))

    wait_for(complete, "every acknowledged body, and for qmail-send to be through with the queue")
    assert len(os.listdir(maildir / "new")) >= COUNT
    assert pwd.getpwnam(USER).pw_uid == os.stat(maildir / "new").st_uid
    host.stop()
    for message in (host.home / "queue/mess").glob("*/*"):
        # half accepted, or delivered and not yet removed: nobody's any more, and swept after 36 hours
        number = int(message.name)
        assert not (host.home / f"queue/todo/{number}").exists()
        assert not list((host.home / "queue/info").glob(f"*/{number}"))
        message.unlink()
