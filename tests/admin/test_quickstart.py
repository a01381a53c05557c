"""bin/quickstart: one line for each trouble, and the whole way from a checkout to two messages in a Maildir."""

import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.admin.tour import STEPS
from tests.loopback import free_port
from tests.public_directory import public_directory

ROOT = Path(__file__).resolve().parents[2]


def quickstart(*options: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run bin/quickstart to its end."""
    command = [str(ROOT / "bin" / "quickstart"), *map(str, options)]
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, cwd="/", timeout=240)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every account can reach."""
    with public_directory() as base:
        yield base


def test_a_port_in_use_is_one_line(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = quickstart("--once", "--tree", place / "run", "--port", taken.getsockname()[1])
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "Address already in use; choose another with --port" in result.stderr


def test_a_directory_that_cannot_be_made_is_one_line(place: Path) -> None:
    (place / "file").write_text("")
    result = quickstart("--once", "--tree", place / "file", "--port", free_port())
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert f"quickstart: {'cannot make ' if os.geteuid() else ''}{place}/file" in result.stderr


def test_no_network_for_pip_is_one_line(place: Path) -> None:
    blocked = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    result = quickstart(
        "--once", "--tree", place / "run", "--port", free_port(), PIP_CONFIG_FILE=os.devnull, PIP_RETRIES="0", **blocked
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "is there a network?" in result.stderr


def two_free_ports() -> int:
    """A port that is free, as the one above it is."""
    for port in range(free_port(), 65000):
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 1)):
                return port
        except OSError:
            continue
    raise AssertionError("no two ports")


def assert_tour(text: str) -> None:
    """Each step said its command and showed what it is about."""
    for wanted in (
        "$ qmail-cert show",
        "$ qmail-vuser add ann@mail.pyqmail.test",
        "C: STARTTLS",
        "C: AUTH PLAIN ***",
        "with ESMTPSA (",
        "S: 553 sorry, you may not send as that sender",
        "S: 550 sorry, no mailbox here by that name",
        "S: 553 sorry, that domain isn't in my list",
        "$ qmail-explain ann@mail.pyqmail.test",
        "$ qmail-dkimkey record mail.pyqmail.test",
        "DKIM-Signature: v=1; a=ed25519-sha256",
        "S: 250 ok",
        "S: 550 DMARC: mail.pyqmail.test asks to refuse mail that it has neither signed nor sent (#5.7.1)",
        "dkim=pass dmarc=pass",
        "dkim=fail dmarc=fail",
        '{"time":',
        "$ qmail-top --once",
    ):
        assert f"\n    {wanted}" in text or wanted in text.replace("\n      by ", "\n    "), (wanted, text)
    titles = [line for line in text.splitlines() if line[:1].isdigit()]
    assert len(titles) == len(STEPS)
    assert text.count("    $ ") > len(STEPS)


def test_once_delivers_two_messages_and_a_second_run_keeps_what_is_there(place: Path) -> None:
    first = quickstart("--once", "--tree", place / "run", "--port", free_port())
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count("Received: (qmail ") >= 2
    home = place / "run" / "control" / "me"
    stamp = home.stat().st_mtime_ns
    assert "with ESMTPS (" in first.stdout
    certificate = place / "run/control/servercert.pem"
    before = certificate.read_bytes()
    assert certificate.stat().st_mode & 0o777 == 0o400
    second = quickstart("--once", "--tour", "--tree", place / "run", "--port", two_free_ports())
    assert second.returncode == 0, second.stdout + second.stderr
    assert_tour(second.stdout)
    assert certificate.read_bytes() == before
    assert len(list((place / "run/home/Maildir/new").iterdir())) == 4
    assert home.stat().st_mtime_ns == stamp
    owner = "nobody" if os.geteuid() == 0 and not os.environ.get("SUDO_UID") else None
    if owner is not None:
        assert (place / "run").stat().st_uid == pwd.getpwnam(owner).pw_uid
    assert running_below(place) == []


def running_below(place: Path) -> list[str]:
    """The command lines of processes that run from ``place``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if str(place) in text + where:
                found.append(text)
    return found
