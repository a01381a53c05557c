"""The filter in control-examples finds what qmail-smtpd writes, and only what counts, in every kind of log."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.programs.smtp_transcripts import Run, Transcript, fork_ours, transcripts

ROOT = Path(__file__).resolve().parents[2]
FILTER = ROOT / "control-examples" / "fail2ban" / "filter.d" / "qmail-smtpd.conf"
PREFIXES = {
    "multilog": "@4000000069230a2b1a2b3c4d ",
    "syslog": "Nov 23 13:00:00 host smtpd: ",
    "journal": "Nov 23 13:00:00 host tcpserver[12345]: ",
}
COUNTED = ("rcpthosts-decides-by-the-domain", "badmailfrom-is-reported-at-rcpt", "a-bare-line-feed-ends-the-session")
NOT_COUNTED = ("a-message-is-taken", "queue-exit-53", "a-message-over-databytes-is-refused")


def found(log: Path) -> list[str]:
    """The addresses that fail2ban would count, one for each line."""
    if shutil.which("fail2ban-regex") is None:
        if os.environ.get("PYQMAIL_TESTS_WHOLE"):
            pytest.fail("fail2ban-regex is not installed")
        pytest.skip("fail2ban-regex is not installed")
    words = ["fail2ban-regex", "-o", "ip", str(log), str(FILTER)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()


def decisions(transcript: Transcript, base: Path) -> list[str]:
    """The lines that a conversation leaves in the log."""
    base.mkdir()
    run = Run(transcript, base, fork_ours)
    run.all_at_once(transcript)
    return run.end()[1].decode("ascii").splitlines()


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_the_filter_counts_what_a_stranger_did(tmp_path: Path, prefix: str) -> None:
    by_name = {each.name: each for each in transcripts()}
    lines: dict[bool, list[str]] = {True: [], False: []}
    for counts, names in ((True, COUNTED), (False, NOT_COUNTED)):
        for name in names:
            lines[counts] += decisions(by_name[name], tmp_path / name)
    log = tmp_path / "log"
    log.write_text("".join(f"{prefix}{line}\n" for line in lines[True] + lines[False]))
    refused = [line for line in lines[True] if line.startswith("qmail-smtpd: refused ")]
    assert len(refused) > 5 and len(lines[False]) == 3
    assert found(log) == ["192.0.2.7"] * len(refused)


def test_no_client_can_have_another_address_counted(tmp_path: Path) -> None:
    (transcript,) = [each for each in transcripts() if each.name == "a-hostile-name-cannot-forge-a-log-line"]
    lines = decisions(transcript, tmp_path / "base")
    lines += ["rblsmtpd: 192.0.2.9 pid 5: 451 qmail-smtpd: refused ip=192.0.2.99 helo= from=<> to=<> reason=550_x"]
    log = tmp_path / "log"
    log.write_text("".join(f"{PREFIXES['multilog']}{line}\n" for line in lines))
    assert set(found(log)) == {"192.0.2.7"}


def test_refusals_by_qmtp_count_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    line = "refused ip=192.0.2.8 helo= from=<a@b> to=<c@elsewhere.test> reason=553_sorry,_that_domain_isn't_in_my_list"
    log.write_text("".join(f"{PREFIXES['multilog']}qmail-{name}: {line}\n" for name in ("qmtpd", "qmqpd")))
    assert found(log) == ["192.0.2.8"]


def test_ipv6_addresses_are_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    line = "qmail-smtpd: refused ip=2001:db8::9 helo= from=<> to=<a@b> reason=550_sorry,_no_mailbox_here"
    log.write_text(PREFIXES["multilog"] + line + "\n")
    assert socket.inet_pton(socket.AF_INET6, found(log)[0]) == socket.inet_pton(socket.AF_INET6, "2001:db8::9")


def test_wrong_passwords_are_counted_and_no_name_can_have_another_address_counted(tmp_path: Path) -> None:
    line = "qmail-smtpd: auth: auth-%s type=plain user=<%s> ip=192.0.2.%d"
    lines = [line % ("failed", "ann", 7), line % ("success", "ann", 8), line % ("deferred", "ann", 9)]
    lines += [line % ("failed", ">_ip=192.0.2.99", 10), line % ("success", "x>_ip=192.0.2.99", 11)]
    pop3 = "qmail-popup: auth: auth-%s type=%s user=<%s> ip=192.0.2.%d"
    lines += [pop3 % ("failed", "user", "ann", 12), pop3 % ("failed", "apop", "x>_ip=192.0.2.99", 13)]
    lines += [pop3 % ("deferred", "user", "ann", 14)]
    log = tmp_path / "log"
    log.write_text("".join(prefix + line + "\n" for prefix in PREFIXES.values() for line in lines))
    assert sorted(set(found(log))) == ["192.0.2.10", "192.0.2.12", "192.0.2.13", "192.0.2.7"]
