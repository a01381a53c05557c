"""The floor takes messages by SMTP, delivers each once, and leaves nothing in its queue."""

import os
import smtplib
import subprocess
import sys
from pathlib import Path

from tests.integration.mailhost import wait_for
from tests.integration.receivers import free_port, listening

PROGRAM = Path(__file__).with_name("floor.py")


def test_the_floor_delivers_and_forgets(tmp_path: Path) -> None:
    queue, maildir, port = tmp_path / "queue", tmp_path / "Maildir", free_port()
    for name in ("tmp", "new"):
        (maildir / name).mkdir(parents=True)
    floor = subprocess.Popen([sys.executable, PROGRAM, queue, maildir, str(port)])
    try:
        wait_for(lambda: listening(port), "the floor")
        for _ in range(3):
            with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                for number in range(2):
                    client.sendmail("ann@client.test", ["bob@example.test"], f"Subject: {number}\r\n\r\nbody\r\n")
        new = maildir / "new"
        wait_for(lambda: len(os.listdir(new)) == 6, "six deliveries")
        wait_for(lambda: not [f for f in queue.rglob("*") if f.is_file() and f.name != "log"], "an empty queue")
        subjects = sorted(path.read_bytes().split(b"\r\n")[0] for path in new.iterdir())
        assert subjects == [b"Subject: 0"] * 3 + [b"Subject: 1"] * 3
    finally:
        floor.terminate()
        assert floor.wait(20) == 0
