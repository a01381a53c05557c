"""qmail-q on the installed tree, with the real users."""

import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from tests.integration.mailhost import MailHost
from tests.waiting import wait_for

# Whose what is in queue/pyqmail is, where it is not qmail-send's.
OTHERS = {"drafts": "qmailq", "facts": "qmailq", "transfers": "qmailq", "remotelimits": "qmailr"}


def queue(host: MailHost, *words: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
    entry = pwd.getpwnam(user) if user else None
    return subprocess.run(
        [str(host.home / "bin/qmail-q"), *words],
        env={"QMAIL_HOME": str(host.home)},
        capture_output=True,
        text=True,
        check=False,
        user=entry.pw_uid if entry else None,
        group=entry.pw_gid if entry else None,
        extra_groups=[] if entry else None,
    )


def listed(host: MailHost) -> list[dict[str, object]]:
    return [json.loads(line) for line in queue(host, "--json", "list", user="qmails").stdout.splitlines()]


@pytest.mark.parametrize("running", [True, False], ids=["a running qmail-send", "a stopped queue"])
def test_qmails_and_root_may_hold_and_delete_and_nobody_else_may(host: MailHost, running: bool) -> None:
    assert queue(host, "hold", "far.example", user="qmails").returncode == 0
    words = [str(host.home / "bin/qmail-inject"), "-a", "x@far.example"]
    subprocess.run(words, input=b"Subject: held\n\nx\n", env=host.environ(), check=True)
    wait_for(lambda: [entry["state"] for entry in listed(host)] == ["waiting"], "the message")
    (entry,) = listed(host)
    if not running:
        host.stop()
        assert [each["state"] for each in listed(host)] == ["waiting"]
    assert queue(host, "delete", str(entry["id"]), user="nobody").returncode == 111
    assert queue(host, "delete", str(entry["id"])).stdout == f"delete {entry['id']}\n"
    wait_for(lambda: host.queued() == 0, "an empty queue")
    assert queue(host, "release", "far.example").returncode == 0
    if running:
        assert f"control: uid 0: delete msg {entry['id']}\n" in host.log.read_text()
        assert f"control: uid {pwd.getpwnam('qmails').pw_uid}: hold domain far.example\n" in host.log.read_text()
    for path in Path(host.home / "queue/pyqmail").rglob("*"):
        owner = OTHERS.get(path.relative_to(host.home / "queue/pyqmail").parts[0], "qmails")
        assert path.stat().st_uid == pwd.getpwnam(owner).pw_uid, path
    assert "starting delivery" not in host.log.read_text()
    assert os.listdir(host.home / "queue/bounce") == []


def held_on_a_stopped_queue(host: MailHost) -> str:
    """The number of a message that waits, since its domain is held."""
    words = [str(host.home / "bin/qmail-inject"), "-a", "x@far.example"]
    assert queue(host, "hold", "far.example", user="qmails").returncode == 0
    subprocess.run(words, input=b"Subject: held\n\nx\n", env=host.environ(), check=True)
    wait_for(lambda: [entry["state"] for entry in listed(host)] == ["waiting"], "the message")
    (number,) = (str(entry["id"]) for entry in listed(host))
    host.stop()
    return number


def test_what_root_makes_on_a_stopped_queue_belongs_to_qmails(host: MailHost) -> None:
    number = held_on_a_stopped_queue(host)
    assert queue(host, "bounce", number).stdout == f"bounce {number}\n"
    made = [host.home / "queue" / name for name in (f"bounce/{number}", "pyqmail/orders", "pyqmail/actions")]
    assert {path.stat().st_uid for path in made} == {pwd.getpwnam("qmails").pw_uid}
    assert queue(host, "delete", number).returncode == 0


@pytest.mark.parametrize("order", ["bounce", "retry", "delete"])
def test_root_follows_no_link_that_qmails_has_put_into_the_queue(host: MailHost, tmp_path: Path, order: str) -> None:
    """qmails may put a directory of somebody else's in the place of remote/N: what is in there stays as it is."""
    number = held_on_a_stopped_queue(host)
    (part,) = (host.home / "queue/remote").glob(f"*/{number}")
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    (mine / number).write_bytes(before := part.read_bytes())
    os.utime(mine / number, (1, 1))
    part.parent.rename(part.parent.with_name("away"))
    part.parent.symlink_to(mine)
    for folder in tmp_path.parents:  # only the last step is barred to qmails
        if folder.owner() == "root" and folder != Path("/") and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o711)
    answer = queue(host, order, number)
    part.parent.unlink()
    part.parent.with_name("away").rename(part.parent)
    assert queue(host, "delete", number).returncode == 0
    assert (mine / number).read_bytes() == before, answer
    assert (mine / number).stat().st_mtime == 1
    assert list((host.home / "queue/bounce").iterdir()) == []
