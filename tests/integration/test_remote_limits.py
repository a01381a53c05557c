"""control/remotelimits through the whole chain, to a Postfix that counts connections."""

import os
import shutil
import subprocess

import pytest

from tests.integration.mailhost import MailHost
from tests.integration.receivers import DOMAIN, Postfix
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: starts Postfix"),
    pytest.mark.skipif(shutil.which("postfix", path="/usr/sbin:/usr/bin") is None, reason="needs postfix"),
]
COUNTING = "smtpd_client_connection_count_limit = 4\nsmtpd_client_event_limit_exceptions =\n"


def test_all_is_delivered_and_nobody_hears_421(host: MailHost) -> None:
    boxes = [f"box{number}" for number in range(14)]
    postfix = Postfix(boxes, COUNTING)
    controls = {"smtproutes": f":127.0.0.1:{postfix.port}", "remotelimits": "127.0.0.1:2:", "remotereuse": "5"}
    for name, text in controls.items():
        (host.home / "control" / name).write_text(text + "\n")
    try:
        command = [str(host.home / "bin" / "sendmail"), "-f", "", *(f"{box}@{DOMAIN}" for box in boxes)]  # all at once
        subprocess.run(command, input=b"Subject: x\n\nhello\n", check=True, env=host.environ(), timeout=60)
        wait_for(lambda: host.queued() == 0, "an empty queue")
        wait_for(lambda: all(postfix.stored(box) for box in boxes), "the messages in their boxes")
        log = host.log.read_text()
        assert log.count("success: 127.0.0.1_accepted_message.") == len(boxes) and "said:_421" not in log
        assert "deferral: Held_back:_127.0.0.1_has_all_of_its_2_connections._(#4.4.5)/" in log
    finally:
        for name in controls:
            (host.home / "control" / name).unlink()
        postfix.stop()
