"""qmail-send from its start to its first status line, and the forms of its control files."""

import os
import signal
import time
from pathlib import Path

import pytest

from pyqmail.control import ControlUnreadable
from pyqmail.send.controls import read_controls
from tests.programs.sending import Sending, patched


def status_field(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(name + ":"))


def flags_of(pid: int, fd: str) -> int:
    lines = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("flags"))


@pytest.mark.contract("send 2.4", "send 2.8", "send 2a.2")
def test_signals_umask_descriptors_and_the_lock(sending: Sending) -> None:
    sending.start().until_log("status:")
    ignored, caught = (int(status_field(sending.pid, name), 16) for name in ("SigIgn", "SigCgt"))
    assert ignored & 1 << signal.SIGPIPE - 1
    for signum in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP):
        assert caught & 1 << signum - 1
    assert not (caught | ignored) & 1 << signal.SIGCHLD - 1
    assert status_field(sending.pid, "Umask") == "0077"
    for fd in ("1", "3"):
        assert flags_of(sending.pid, fd) & os.O_NONBLOCK
    assert os.readlink(f"/proc/{sending.pid}/cwd") == str(sending.queue)
    fds = Path(f"/proc/{sending.pid}/fd")
    (lock,) = [fd.name for fd in fds.iterdir() if os.readlink(fd).endswith("/lock/sendmutex")]
    assert not flags_of(sending.pid, lock) & os.O_CLOEXEC


@pytest.mark.contract("send 2.7")
@pytest.mark.parametrize("silent", [2, 4])
def test_a_spawner_that_says_nothing(sending: Sending, silent: int) -> None:
    sending.start((b"" if silent == 2 else b"\x05", b"" if silent == 4 else b"\x05"))
    sending.close(silent)
    assert sending.wait() == 111
    assert sending.log == "alert: cannot start: hath the daemon spawn no fire?\n"


@pytest.mark.contract("send 2a.1", "send 2.10", "send 9.1", "control 7.10")
def test_concurrency_is_what_both_allow(send_home: Path, sending: Sending) -> None:
    (send_home / "control/concurrencylocal").write_text("7\n")
    (send_home / "control/concurrencyremote").write_text("3\n")
    sending.start((b"\x05", b"\x05")).until_log("\n")
    assert sending.log == "status: local 0/5 remote 0/3\n"


@pytest.mark.contract("send 2.9", "send 6a.1")
def test_what_waits_in_info_is_tried_when_its_file_says_so(sending: Sending) -> None:
    now = time.time()
    for number, due in ((7, now - 10), (8, now + 1000)):
        for part, text in (("mess", b"x\n"), ("info", b"Fjoe@a.example\0"), ("local", b"Tann@here.example\0")):
            (sending.queue / f"{part}/{number % 3}/{number}").write_bytes(text)
        os.utime(sending.queue / f"local/{number % 3}/{number}", (due, due))
    unready = sending.queue / "info/0/9"
    unready.write_bytes(b"")  # being preprocessed: todo/9 is what counts
    (sending.queue / "mess/0/9").write_bytes(b"x\n")
    (sending.queue / "todo/9").write_bytes(b"u1\0p1\0Fjoe@a.example\0Tbob@here.example\0")
    (sending.queue / "info/0/word").write_bytes(b"")
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    assert {command.message for command in sending.commands["local"]} == {b"1/7", b"0/9"}
    for command in list(sending.commands["local"]):
        sending.report("local", command.slot, b"Z")
    sending.until(lambda: sending.log.count("deferral") == 2)
    assert sending.finish() == 0
    assert int((sending.queue / "local/2/8").stat().st_mtime) == int(now + 1000)


@pytest.mark.contract("send 9.8", "send 2.9")
def test_a_directory_that_cannot_be_read_is_read_later(sending: Sending) -> None:
    sending.program = patched("from pyqmail.send import loading\nloading.SLEEP_S = 0.1")
    for number in (6, 7, 8):
        for part, text in (("mess", b"x\n"), ("info", b"Fjoe@a.example\0"), ("local", b"Tann@here.example\0")):
            (sending.queue / f"{part}/{number % 3}/{number}").write_bytes(text)
    away = (sending.queue / "info/1").rename(sending.queue / "away")
    sending.start().until_log("alert: unable to opendir info/1, sleeping...\n")
    sending.until(lambda: len(sending.commands["local"]) == 2)
    away.rename(sending.queue / "info/1")
    sending.until(lambda: len(sending.commands["local"]) == 3)


def write(home: Path, **controls: bytes) -> None:
    (home / "control").mkdir(exist_ok=True)
    for name, value in controls.items():
        (home / "control" / name).write_bytes(value)


@pytest.mark.contract("send 3.2", "send 3.3", "send 3.4", "send 3.5", "send 3.6", "send 3.7", "send 3.8")
def test_defaults_with_me(tmp_path: Path) -> None:
    write(tmp_path, me=b"mx.example\n")
    controls = read_controls(str(tmp_path))
    assert controls.lifetime_s == 604800
    assert controls.concurrency == {"local": 10, "remote": 20}
    assert controls.routing.default_host == controls.bounce_host == b"mx.example"
    assert controls.bounce_from == b"MAILER-DAEMON"
    assert controls.double_bounce_to == b"postmaster@mx.example"
    assert controls.routing.locals == {b"mx.example"}
    assert controls.routing.percent_hack == frozenset()
    assert controls.routing.virtual == {}
    assert (controls.bounce_max, controls.domain_concurrency, controls.faults) == (None, {}, ())


@pytest.mark.contract("send 3.1", "send 3.4", "send 3.6")
def test_defaults_without_me(tmp_path: Path) -> None:
    write(tmp_path, locals=b"")
    controls = read_controls(str(tmp_path))
    assert controls.routing.default_host == b"envnoathost"
    assert controls.bounce_host == b"bouncehost"
    assert controls.double_bounce_to == b"postmaster@doublebouncehost"
    (tmp_path / "control/locals").unlink()
    with pytest.raises(ControlUnreadable):
        read_controls(str(tmp_path))


@pytest.mark.contract("send 3a.1", "send 3a.2", "send 3a.3", "send 3a.4", "send 3.8")
def test_the_forms(tmp_path: Path) -> None:
    write(
        tmp_path,
        me=b"Mx.example \t\nsecond line\n",
        bouncefrom=b"\n",
        queuelifetime=b"12 days\n",
        concurrencylocal=b"x7\n",
        concurrencyremote=b"0",
        locals=b"# none\n\nA.example \t\n b.example\n#c\n",
        virtualdomains=b"no colon\nV.example:one\nv.EXAMPLE:two:three\n:rest\n.w:\n",
    )
    controls = read_controls(str(tmp_path))
    assert controls.bounce_host == b"Mx.example"
    assert controls.bounce_from == b""
    assert controls.lifetime_s == 12
    assert controls.concurrency == {"local": 10, "remote": 0}
    assert controls.routing.locals == {b"a.example", b" b.example"}
    assert controls.routing.virtual == {b"v.example": b"two:three", b"": b"rest", b".w": b""}


def test_our_own_files_are_read_strictly(tmp_path: Path) -> None:
    write(tmp_path, me=b"m\n", bouncemaxbytes=b"5000\n", domainconcurrency=b"# few\nBig.example:2\nbig.example:3\n")
    controls = read_controls(str(tmp_path))
    assert (controls.bounce_max, controls.domain_concurrency) == (5000, {b"big.example": 3})
    write(tmp_path, bouncemaxbytes=b"5k\n", domainconcurrency=b"a.example\nb.example:0\n:4\nc.example:x\nd.example:9\n")
    controls = read_controls(str(tmp_path))
    assert (controls.bounce_max, controls.domain_concurrency) == (None, {b"d.example": 9})
    assert len(controls.faults) == 5


def test_an_empty_doublebounceto_wants_no_double_bounces(tmp_path: Path) -> None:
    write(tmp_path, me=b"m\n", doublebounceto=b"\n")
    assert read_controls(str(tmp_path)).double_bounce_to is None


@pytest.mark.contract("send 3.1")
def test_an_unreadable_me_is_fatal(send_home: Path, sending: Sending) -> None:
    (send_home / "control/me").unlink()
    (send_home / "control/me").mkdir()
    assert sending.start().wait() == 111
    assert sending.log == "alert: cannot start: unable to read controls\n"


@pytest.mark.contract("send 3.1")
def test_an_absent_me_is_allowed(send_home: Path, sending: Sending) -> None:
    (send_home / "control/me").unlink()
    sending.start().until_log("status:")


def test_what_does_not_parse_at_start_is_said_and_ignored(send_home: Path, sending: Sending) -> None:
    (send_home / "control/queuelifetime").write_text("long\n")
    sending.start().until_log("status:")
    assert sending.log.startswith("warning: control/queuelifetime: no number at its start; it is ignored\n")
