"""Mail through the whole chain of an installed tree, with the tools that admins use."""

import os
import pwd
import re
import subprocess
from pathlib import Path

from tests.integration.conftest import USER
from tests.integration.mailhost import MailHost, fresh_maildir, messages
from tests.waiting import wait_for

ADDRESS = f"{USER}@example.test"


def delivered(base: Path) -> int:
    return len(os.listdir(base / "new"))


def swaks(port: int, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["swaks", "--server", f"127.0.0.1:{port}", "--helo", "client.test", "--from", "ann@client.test", *options],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_swaks_through_our_tcpserver_reaches_the_maildir(host: MailHost, maildir: Path) -> None:
    done = swaks(host.port, "--to", ADDRESS, "--body", "hello\n.dot\nlast")
    assert done.returncode == 0, done.stdout
    wait_for(lambda: delivered(maildir) == 1, "the message")
    (message,) = messages(maildir)
    assert message["Delivered-To"] == ADDRESS
    assert message["Return-Path"] == "<ann@client.test>"
    received = message.get_all("Received")
    assert received is not None and len(received) == 2
    assert re.fullmatch(r"\(qmail \d+ invoked from network\); .* -0000", received[0])
    assert "by " in received[1] and "with SMTP" in received[1]
    text = message.get_payload()
    assert isinstance(text, str) and text.startswith("hello\n.dot\nlast")


def test_swaks_through_debians_tcpserver_reaches_the_maildir_and_mutt_reads_it(
    installed_home: Path, maildir: Path
) -> None:
    host = MailHost(installed_home)
    host.log.write_bytes(b"")
    host.start_delivery()
    try:
        host.start_smtp("/usr/bin/tcpserver")
        assert swaks(host.port, "--to", ADDRESS, "--header", "Subject: for mutt").returncode == 0
        wait_for(lambda: delivered(maildir) == 1, "the message")
    finally:
        host.stop()
    assert "Subject: for mutt" in read_with_mutt(maildir)


def read_with_mutt(maildir: Path, user: str = USER) -> str:
    """The first message in ``maildir`` as mutt, run by its owner on a terminal, pipes it to a program."""
    home = maildir.parent
    seen, rc = home / "seen", home / "test.muttrc"
    seen.unlink(missing_ok=True)
    rc.write_text(
        "set wait_key=no quit=yes confirmappend=no pipe_decode=no\n"
        f'set folder={home} spoolfile={maildir} mbox_type=Maildir\npush "<pipe-message>cat > {seen}<enter><quit>"\n'
    )
    rc.chmod(0o644)
    # script's terminal has no size, with which ncurses 6.5 does not begin
    command = f"stty rows 24 cols 80; su {user} -c 'TERM=vt100 mutt -n -F {rc} -f {maildir}'"
    subprocess.run(
        ["script", "-qec", command, "/dev/null"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True
    )
    return seen.read_text()


def test_sendmail_reaches_the_maildir_under_the_callers_uid(host: MailHost, maildir: Path) -> None:
    entry = pwd.getpwnam(USER)
    done = subprocess.run(
        [host.home / "bin" / "sendmail", "-t"],
        input=f"To: {ADDRESS}\nSubject: by hand\n\nbody\n".encode(),
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        env={"PATH": "/usr/bin:/bin", "USER": USER},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    wait_for(lambda: delivered(maildir) == 1, "the message")
    (message,) = messages(maildir)
    received = message.get_all("Received")
    assert received is not None and f"invoked by uid {entry.pw_uid}" in received[0]
    assert message["From"] == f"{USER}@example.test"


def test_an_unknown_user_bounces_to_the_sender(host: MailHost, maildir: Path) -> None:
    subprocess.run(
        [host.home / "bin/qmail-inject", "-f", ADDRESS, "nosuch-user@example.test"],
        env={"QMAIL_HOME": str(host.home), "PATH": os.defpath},
        input=b"Subject: lost\n\nwhere to?\n",
        check=True,
        timeout=60,
    )  # by SMTP it would be refused at once
    wait_for(lambda: delivered(maildir) == 1, "the bounce")
    (message,) = messages(maildir)
    assert message["Return-Path"] == "<>"
    text = message.get_payload()
    assert isinstance(text, str)
    assert text.startswith("Hi. This is the qmail-send program at mx.example.test.")
    assert "<nosuch-user@example.test>:" in text and "#5.1.1" in text
    assert "Subject: lost" in text
    wait_for(lambda: host.queued() == 0, "an empty queue")


def test_each_process_runs_under_its_own_user(host: MailHost, maildir: Path) -> None:
    assert swaks(host.port, "--to", ADDRESS).returncode == 0
    wait_for(lambda: delivered(maildir) == 1, "the message")
    owners = {"qmail-send": "qmails", "qmail-lspawn": "root", "qmail-rspawn": "qmailr", "qmail-clean": "qmailq"}
    owners |= {"qmail-queued": "qmailq", "qmail-smtpd": "qmaild"}
    wanted = {name: {(owner, os.SCHED_BATCH)} for name, owner in owners.items()}
    # one that has just been forked still has the name of its parent
    wait_for(lambda: wanted.items() <= who_runs(host).items(), "each to be its own user")


def who_runs(host: MailHost) -> dict[str, set[tuple[str, int]]]:
    """By name the owners and policies of the processes of ``host``."""
    found: dict[str, set[tuple[str, int]]] = {}
    for pid in host.pids():
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().split("/")[-1].split(" ")[0]
            owner = pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name
            found.setdefault(name, set()).add((owner, os.sched_getscheduler(pid)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return found


def test_no_file_of_the_tree_is_setuid_or_setgid_but_alias(installed_home: Path) -> None:
    special = [
        str(path.relative_to(installed_home))
        for path in (installed_home, *installed_home.rglob("*"))
        if not path.is_symlink() and path.lstat().st_mode & 0o6000
    ]
    assert special == ["alias"]
    assert fresh_maildir(USER).is_dir()
