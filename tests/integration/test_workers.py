"""What each worker holds while deliveries of others are in flight: uid, gid, groups and descriptors, from /proc."""

import os
import pwd
import smtplib
from pathlib import Path

from tests.integration.mailhost import MailHost, fresh_maildir, hold_deliveries, own_user
from tests.waiting import wait_for

USERS = (own_user("pqtesta"), own_user("pqtestb"))


def identity(pid: int) -> dict[str, list[int]]:
    """The Uid, Gid and Groups lines of ``pid``."""
    wanted = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key in ("Uid", "Gid", "Groups"):
            wanted[key] = [int(word) for word in rest.split()]
    return wanted


def descriptors(pid: int) -> dict[int, str]:
    """What the descriptors of ``pid`` are."""
    return {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}


def test_a_worker_has_one_identity_and_no_descriptor_of_another_delivery(host: MailHost) -> None:
    gates = {}
    for user in USERS:
        gates[user] = hold_deliveries(user)
        fresh_maildir(user)
    with smtplib.SMTP("127.0.0.1", host.port, timeout=30) as client:
        client.sendmail("a@client.test", [f"{user}-hold@example.test" for user in USERS], "Subject: x\r\n\r\nx\r\n")
    workers = {}
    for user, (_, started) in gates.items():
        workers[user] = int(started.read_text())
    for user, pid in workers.items():
        entry = pwd.getpwnam(user)
        assert identity(pid) == {"Uid": [entry.pw_uid] * 4, "Gid": [entry.pw_gid] * 4, "Groups": [entry.pw_gid]}
        held = descriptors(pid)
        kinds = sorted(target.partition(":")[0] for target in held.values())
        files = [target for target in held.values() if target.startswith("/") and target != "/dev/null"]
        assert all("/queue/mess/" in target for target in files) and len(set(files)) <= 1, held
        assert kinds.count("socket") == 1, held  # its job socket
        assert len({target for target in held.values() if target.startswith("pipe:")}) <= 1, held  # its own report
    for user, (gate, _) in gates.items():
        gate.write_text("go\n")
        new = Path(pwd.getpwnam(user).pw_dir) / "Maildir" / "new"
        wait_for(lambda new=new: len(os.listdir(new)) == 1, f"delivery to {user}")  # type: ignore[misc]
