"""What control-examples has for logwatch keeps its qmail-smtpd script from listing our decisions as unmatched."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs.smtp_transcripts import Run, fork_ours, transcripts

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "control-examples" / "logwatch" / "conf"
STAMP = "2026-11-23_13:00:00.12345 "  # behind multilog's the script's test for an empty line is true for most lines
SPOKEN = ("rcpthosts-decides-by-the-domain", "badmailfrom-is-reported-at-rcpt", "a-message-is-taken")
STRANGE = "a line that nobody knows"


def logwatch(logs: Path, conf: Path) -> str:
    """What logwatch reports of the logs below ``logs``, with ``conf`` in the place of /etc/logwatch/conf."""
    words = 'mount --bind "$0" /etc/logwatch/conf && exec logwatch --service qmail-smtpd --logdir "$1" --range all '
    words += "--output stdout --format text --detail high"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", words, str(conf), str(logs)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount of its own")
def test_decisions_are_not_unmatched_and_other_lines_are(tmp_path: Path) -> None:
    if shutil.which("logwatch") is None:
        if os.environ.get("PYQMAIL_TESTS_WHOLE"):
            pytest.fail("logwatch is not installed")
        pytest.skip("logwatch is not installed")
    lines = [STRANGE]
    for transcript in transcripts():
        if transcript.name in SPOKEN:
            (tmp_path / transcript.name).mkdir()
            run = Run(transcript, tmp_path / transcript.name, fork_ours)
            run.all_at_once(transcript)
            lines += run.end()[1].decode("ascii").splitlines()
    assert any(": accepted ip=" in line for line in lines) and any(": refused ip=" in line for line in lines)
    (tmp_path / "logs" / "qmail" / "smtpd").mkdir(parents=True)
    (tmp_path / "logs" / "qmail" / "smtpd" / "current").write_text("".join(f"{STAMP}{line}\n" for line in lines))
    shipped = (CONF / "services" / "qmail-smtpd.conf").read_text().replace("#LogFile", "LogFile")
    group = (CONF / "logfiles" / "qmail-smtpd-svlogd.conf").read_text()
    for folder in ("services", "logfiles"):
        (tmp_path / "conf" / folder).mkdir(parents=True)
    text = group.replace("/var/log/qmail-smtpd", str(tmp_path / "logs" / "qmail" / "smtpd"))
    (tmp_path / "conf" / "logfiles" / "qmail-smtpd-svlogd.conf").write_text(text)
    service = tmp_path / "conf" / "services" / "qmail-smtpd.conf"
    service.write_text("".join(line + "\n" for line in shipped.splitlines() if not line.startswith("*Remove")))
    without = logwatch(tmp_path / "logs", tmp_path / "conf")
    assert "accepted ip=" in without and "refused ip=" in without and STRANGE in without
    service.write_text(shipped)
    found = logwatch(tmp_path / "logs", tmp_path / "conf")
    assert "ip=" not in found and STRANGE in found
