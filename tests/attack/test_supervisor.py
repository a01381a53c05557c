"""The helpers that qmail-start starts: killed, left behind, of an older build; the tree is a real one."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.protocol.recipients import format_question, is_nobody
from pyqmail.system import processes
from pyqmail.warm.supervised import HELPERS, ask_build, listener
from tests.integration.mailhost import MailHost, install
from tests.public_directory import public_directory
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
QUEUED, RCPTD = HELPERS[0], HELPERS[1]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the tree has seven users")


def alive(pid: int) -> bool:
    return processes.look(pid) is not None


def service_of(home: Path) -> int:
    """The pid of qmail-queued, 0 for none."""
    return listener(str(home), QUEUED) or 0


def keepers(home: Path) -> list[int]:
    title = f"qmail-keeper {home}".encode()
    return [process.pid for process in processes.all_processes() if process.title == title]


def refuses(home: Path) -> bool:
    """Whether qmail-rcptd says that nobody here is called so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        try:
            sock.connect(str(home) + RCPTD.path)
            sock.bind("")
            sock.send(format_question(7, b"surely-nobody-here@example.test"))
            return is_nobody(sock.recv(64), 7)
        except OSError:
            return False


def rcptd_of(home: Path) -> int:
    """The pid of the parent of the qmail-rcptd processes."""
    (keeper,) = keepers(home)
    (pid,) = [p.pid for p in processes.all_processes() if p.parent == keeper and p.name == "qmail-rcptd"]
    return pid


def tool(host: MailHost, *words: str) -> str:
    """What a tool of the tree prints."""
    environ = host.environ() | {"SERVICEDIR": f"{host.home}/nowhere"}
    return subprocess.run(
        [host.home / "bin" / words[0], *words[1:]], env=environ, capture_output=True, text=True
    ).stdout


def start(home: Path) -> MailHost:
    """A running host."""
    (home / "test.log").write_bytes(b"")
    made = MailHost(home)
    made.start_delivery()
    wait_for(lambda: refuses(home), "qmail-rcptd")
    return made


def end_send(host: MailHost) -> None:
    """End qmail-send, which another one cannot start beside."""
    process = host.started.pop()
    process.terminate()
    process.wait(60)


def end(host: MailHost) -> None:
    """Stop it, its supervisor too."""
    for process in host.started:
        process.terminate()
    for keeper in keepers(host.home):
        os.kill(keeper, signal.SIGTERM)
    host.stop()
    wait_for(lambda: not keepers(host.home), "the end of the supervisor")


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """An installed tree."""
    with public_directory() as base:
        install(base / "qmail", me="mx.example.test\n", locals="example.test\n", rcpthosts="example.test\n")
        yield base / "qmail"


@pytest.fixture
def host(installed: Path) -> Iterator[MailHost]:
    (installed / "control/locals").write_text("example.test\n")
    made = start(installed)
    yield made
    end(made)


def test_a_killed_qmail_rcptd_is_replaced_with_a_line_and_has_the_maps(host: MailHost) -> None:
    home = host.home
    first = rcptd_of(home)
    os.kill(first, signal.SIGKILL)
    line = b"alert: qmail-rcptd was killed by signal 9: " + RCPTD.loss.encode() + b"; it is started again in 1 s\n"
    wait_for(lambda: line in host.log.read_bytes(), "a line")  # its workers answer a moment longer
    wait_for(lambda: not refuses(home), "its end")
    wait_for(lambda: refuses(home), "another qmail-rcptd")
    assert rcptd_of(home) != first
    (home / "control/locals").write_text("other.test\n")
    host.started[0].send_signal(signal.SIGHUP)
    wait_for(lambda: not refuses(home), "the new maps")


def test_one_that_dies_again_and_again_is_replaced_less_often(host: MailHost) -> None:
    for count in (1, 2):
        os.kill(rcptd_of(host.home), signal.SIGKILL)
        wait_for(lambda: not refuses(host.home), "its end")
        wait_for(lambda: refuses(host.home), f"helper {count + 1}")
    assert [line.split()[-2] for line in host.log.read_bytes().split(b"\n") if b"signal 9" in line] == [b"1", b"2"]


def test_a_killed_qmail_queued_is_replaced_with_a_line(host: MailHost) -> None:
    first = service_of(host.home)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: service_of(host.home) not in (0, first), "another qmail-queued")
    line = b"alert: qmail-queued was killed by signal 9: nobody can"
    wait_for(lambda: line in host.log.read_bytes(), "a line of qmail-send's")


def test_term_to_qmail_queued_alone_is_no_way_to_be_without_one(host: MailHost) -> None:
    first, (keeper,) = service_of(host.home), keepers(host.home)
    os.kill(first, signal.SIGTERM)
    wait_for(lambda: service_of(host.home) not in (0, first), "another qmail-queued")
    line = b"alert: qmail-queued ended with 0: nobody can"
    wait_for(lambda: line in host.log.read_bytes(), "a line of qmail-send's")
    wait_for(lambda: ask_build(str(host.home)), "its word")  # it has its handlers by then
    second = service_of(host.home)
    host.started[0].terminate()
    assert host.started[0].wait(30) == 0
    os.kill(second, signal.SIGTERM)
    wait_for(lambda: not alive(second) and not alive(keeper), "the end of both")


def test_what_does_not_run_is_said_and_every_build(host: MailHost) -> None:
    home, keeper = host.home, keepers(host.home)[0]
    said = tool(host, "qmailctl", "stat")
    assert f"qmail-keeper: runs (pid {keeper})\n" in said
    assert f"qmail-queued: runs (pid {service_of(home)}, kept by qmail-keeper)\n" in said
    (build,) = [line for line in said.splitlines() if line.startswith("build ")]
    assert build.startswith(f"build {ask_build(str(home))} (installed): ")
    assert all(f"{name} (" in build for name in ("qmail-send", "qmail-lspawn", "qmail-rspawn", "qmail-clean"))
    rcptd = rcptd_of(home)
    for pid in (keeper, rcptd):  # in this order: nobody starts another one
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not refuses(home), "the end of qmail-rcptd")
    missing = f"qmail-rcptd: does not run: {RCPTD.loss}"
    assert missing in tool(host, "qmail-showctl", "--check")
    assert missing in tool(host, "qmailctl", "stat")
    assert "does not run: by SMTP" in tool(host, "qmail-explain", "root@example.test")
    wait_for(lambda: b"alert: the supervisor of qmail-start is gone" in host.log.read_bytes(), "a line")
    assert "left behind by a qmail-start" in tool(host, "qmailctl", "stat")
    service = service_of(home)
    tool(host, "qmailctl", "stop")
    assert not alive(service)


def test_the_supervisor_stays_for_qmail_queued_and_term_ends_both(host: MailHost) -> None:
    home, rcptd, service = host.home, rcptd_of(host.home), service_of(host.home)
    host.started[0].terminate()
    assert host.started[0].wait(30) == 0
    wait_for(lambda: not alive(rcptd), "the end of qmail-rcptd")
    (keeper,) = keepers(home)
    assert service_of(home) == service
    assert b"qmail-rcptd" not in host.log.read_bytes()
    os.kill(keeper, signal.SIGTERM)
    wait_for(lambda: not alive(keeper) and not alive(service), "the end of both")


def test_a_restart_of_the_same_build_keeps_qmail_queued_and_watches_it(host: MailHost) -> None:
    home, service, (first,) = host.home, service_of(host.home), keepers(host.home)
    end_send(host)
    host.start_delivery()
    wait_for(lambda: keepers(home) != [first] and len(keepers(home)) == 1 and refuses(home), "the new supervisor")
    assert service_of(home) == service
    os.kill(service, signal.SIGKILL)
    wait_for(lambda: service_of(home) not in (0, service), "another qmail-queued")


def test_a_second_qmail_start_takes_nothing_over(host: MailHost) -> None:
    home, before = host.home, (keepers(host.home), service_of(host.home), rcptd_of(host.home))
    second = subprocess.run(
        [home / "bin/qmail-start"], env=host.environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=60
    )
    assert second.stdout == b"alert: cannot start: qmail-send is already running\n"
    wait_for(lambda: len(keepers(home)) == 1, "the end of the second supervisor")
    assert (keepers(home), service_of(home), rcptd_of(home)) == before


@pytest.mark.parametrize("left", ["kept", "orphan"])
def test_after_an_upgrade_the_new_build_serves(installed: Path, tmp_path: Path, left: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", "tests", "*_cache"))
    host = start(installed)
    service, (keeper,) = service_of(installed), keepers(installed)
    old = ask_build(str(installed))
    end_send(host)
    if left == "orphan":
        os.kill(keeper, signal.SIGKILL)
    with (source / "pyqmail/programs/qmail_queued.py").open("a") as module:
        module.write(f"# newer: {left}\n")
    environ = dict(os.environ, QMAIL_HOME=str(installed))
    subprocess.run([source / "bin/qmail-setup"], check=True, env=environ, stdout=subprocess.DEVNULL)
    host.start_delivery()
    wait_for(lambda: ask_build(str(installed)) not in (None, old), "the new build")
    wait_for(lambda: not alive(service) and not alive(keeper), "the end of the old one")
    wait_for(lambda: len(keepers(installed)) == 1, "one supervisor")
    end(host)


def test_it_ends_with_its_home(installed: Path) -> None:
    host = start(installed)
    (keeper,), service = keepers(installed), service_of(installed)
    host.started[0].terminate()
    host.started[0].wait(30)
    assert alive(keeper) and alive(service)
    shutil.rmtree(installed)
    wait_for(lambda: not alive(keeper) and not alive(service), "the end of both")
