"""qmail-send and its three signals."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from pyqmail.protocol.spawn import Command, CommandParser
from tests.programs.sending import Sending, patched


@pytest.mark.contract("send 7.1")
def test_alrm_makes_everything_that_waits_due(sending: Sending) -> None:
    for number, part in ((7, "local"), (8, "remote"), (9, "local")):
        (sending.queue / f"mess/{number % 3}/{number}").write_bytes(b"x\n")
        (sending.queue / f"info/{number % 3}/{number}").write_bytes(b"Fjoe@a.example\0")
        path = sending.queue / f"{part}/{number % 3}/{number}"
        path.write_bytes(b"Tann@here.example\0")
        os.utime(path, (time.time() + 5000,) * 2)
    sending.start().until_log("status:")
    os.kill(sending.pid, signal.SIGALRM)
    sending.until(lambda: len(sending.commands["local"]) == 2 and len(sending.commands["remote"]) == 1)


@pytest.mark.contract("send 7.2", "send 11.2")
def test_hup_rereads_every_control_file(send_home: Path, sending: Sending) -> None:
    control = send_home / "control"
    spy = sending.spy()
    sending.start().until_log("status:")
    for name, text in (
        ("me", "new.example"),
        ("locals", "l.example"),
        ("percenthack", "p.example"),
        ("envnoathost", "l.example"),
        ("virtualdomains", "w.example:alias-w"),
        ("bouncefrom", "daemon"),
        ("concurrencylocal", "3"),
        ("concurrencyremote", "1"),
    ):
        (control / name).write_text(text + "\n")
    os.kill(sending.pid, signal.SIGHUP)
    number = sending.put(b"joe@a.example", b"nohost", b"a%l.example@p.example", b"x@w.example", b"y@v.example")
    sending.pull()
    sending.until(lambda: len(sending.commands["local"]) == 3 and sending.commands["remote"])
    assert [command.recipient for command in sending.commands["local"]] == [
        b"nohost@l.example",
        b"a@l.example",
        b"alias-w-x@w.example",
    ]
    assert "status: local 3/3 remote" in sending.log
    for slot in range(3):
        sending.report("local", slot, b"K")
    sending.report("remote", 0, b"D", b"no")
    sending.until_log(f"bounce msg {number} qp ")
    assert b"\nFrom: daemon@new.example\n" in spy.read_bytes()


@pytest.mark.contract("send 7.2", "send 9.8")
@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("locals", None, "Is a directory"),
        ("virtualdomains", None, "Is a directory"),
        ("concurrencyremote", None, "Is a directory"),
        ("concurrencylocal", "many\n", "no number at its start"),
        ("queuelifetime", "", "no number at its start"),
        ("bouncemaxbytes", "64k\n", "not a number"),
        ("dsnbounces", "yes\n", "not a number"),
        ("domainconcurrency", "a.example 5\n", "a line is not domain:limit"),
    ],
)
def test_hup_keeps_every_old_value_if_one_file_is_no_good(
    send_home: Path, sending: Sending, name: str, damage: str | None, why: str
) -> None:
    sending.start().until_log("status:")
    control = send_home / "control"
    (control / "locals").write_text("other.example\n")
    (control / "concurrencylocal").write_text("5\n")
    (control / name).unlink(missing_ok=True)
    if damage is None:
        (control / name).mkdir()
    else:
        (control / name).write_text(damage)
    os.kill(sending.pid, signal.SIGHUP)
    sending.until_log(f"alert: unable to reread control/{name}\n")
    sending.until_log(f"{why}; all controls stay as they were\n")
    sending.put(b"joe@a.example", b"ann@here.example", b"bob@other.example")
    sending.pull()
    sending.until(lambda: sending.commands["local"] and sending.commands["remote"])
    assert sending.commands["local"][0].recipient == b"ann@here.example"
    assert "status: local 1/10" in sending.log


@pytest.mark.contract("send 7.2")
def test_hup_without_locals_takes_me_and_without_both_the_old_me(send_home: Path, sending: Sending) -> None:
    sending.start().until_log("status:")
    (send_home / "control/locals").unlink()
    (send_home / "control/me").unlink()
    (send_home / "control/virtualdomains").unlink()
    os.kill(sending.pid, signal.SIGHUP)
    sending.put(b"joe@a.example", b"ann@mx.example.test", b"x@v.example")
    sending.pull()
    sending.until(lambda: sending.commands["local"] and sending.commands["remote"])
    assert sending.commands["local"][0].recipient == b"ann@mx.example.test"
    assert sending.commands["remote"][0].recipient == b"x@v.example"
    assert "alert" not in sending.log


@pytest.mark.contract("send 7a.1", "send 9.8")
@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("", "alert: unable to reread controls: unable to switch to home directory\n"),
        ("queue", "alert: unable to switch back to queue directory; HELP! sleeping...\n"),
    ],
)
def test_hup_with_a_directory_that_is_away(send_home: Path, sending: Sending, what: str, line: str) -> None:
    sending.start().until_log("status:")
    place = send_home / what
    away = place.rename(place.with_name("away"))
    os.kill(sending.pid, signal.SIGHUP)
    sending.until_log(line)
    away.rename(place)


@pytest.mark.contract("send 7.3", "send 7a.2", "send 11.5", "send 9.1", "send 9.2")
def test_term_waits_for_what_runs_and_starts_nothing_more(send_home: Path, sending: Sending) -> None:
    (send_home / "control/concurrencylocal").write_text("2\n")
    number = sending.put(b"joe@a.example", *(b"u%d@here.example" % index for index in range(5)))
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    path = sending.queue / f"local/{number % 3}/{number}"
    created = path.stat().st_mtime
    os.kill(sending.pid, signal.SIGTERM)
    waiting = sending.put(b"joe@a.example", b"ann@here.example")
    sending.pull()
    sending.report("local", 1, b"Z", b"later")
    sending.until_log("delivery 2: deferral: later\nstatus: local 1/2 remote 0/20 exitasap\n")
    sending.report("local", 0, b"Z", b"later")
    assert sending.wait() == 0
    assert sending.log.endswith("status: local 0/2 remote 0/20 exitasap\nstatus: exiting\n")
    assert len(sending.commands["local"]) == 2
    assert path.read_bytes().count(b"T") == 5
    assert path.stat().st_mtime == created
    assert f"new msg {waiting}\n" not in sending.log


@pytest.mark.contract("send 6a.1", "send 9.9")
def test_a_time_that_cannot_be_saved_is_said(sending: Sending) -> None:
    number = sending.put(b"joe@a.example", b"ann@here.example", b"bob@here.example")
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    for slot in (0, 1):
        sending.report("local", slot, b"Z")
    sending.until(lambda: sending.log.count("deferral") == 2)
    name = f"local/{number % 3}/{number}"
    (sending.queue / name).unlink()
    assert sending.finish() == 0
    assert f"warning: unable to utime {name}; message will be retried too soon\n" in sending.log


@pytest.mark.contract("send 5a.4", "send 9.8")
def test_without_qmail_clean_it_ends_as_on_term(sending: Sending) -> None:
    sending.put(b"joe@a.example", b"ann@here.example", b"bob@here.example")
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    sending.close(6)
    sending.until_log("alert: oh no! lost qmail-clean connection! dying...\n")
    for slot in (0, 1):
        sending.report("local", slot, b"K")
    assert sending.wait() == 0
    assert "exitasap" in sending.log and sending.log.endswith("status: exiting\n")


@pytest.mark.contract("send 11.1")
def test_only_commands_go_to_the_spawners_and_only_the_log_to_descriptor_0(sending: Sending) -> None:
    """Whatever the message: a stray byte on a pipe would be taken for a command by a process of root's."""
    raw = {"local": b"", "remote": b""}

    class Recorder(CommandParser):
        """Keeps the bytes, too."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def feed(self, data: bytes) -> list[Command]:
            raw[self.name] += data
            return super().feed(data)

    sending._parsers = {name: Recorder(name) for name in raw}
    number = sending.put(b"joe@a.example", b"ann@here.example", b"bob@far.example")
    sending.start().until(lambda: sending.commands["local"] and sending.commands["remote"])
    name = b"%d/%d" % (number % 3, number)
    assert raw["local"] == b"\0" + name + b"\0joe@a.example\0ann@here.example\0"
    assert raw["remote"] == b"\0" + name + b"\0joe@a.example\0bob@far.example\0"


@pytest.mark.parametrize(
    ("where", "code"),
    [
        (
            "in the loop",
            "import pyqmail.send.todo_pass as module\ndef step(self, now): raise KeyError('a bug')\n"
            "module.TodoPass.step = step",
        ),
        (
            "in the thread",
            "import pyqmail.send.batches as module\ndef bug(layout, batch): raise MemoryError('a bug')\n"
            "module.make_durable = bug",
        ),
        (
            "before the loop",
            "import pyqmail.spool.layout as module\ndef bug(home): raise KeyError('a bug')\nmodule.read_layout = bug",
        ),
    ],
    ids=lambda value: value if "\n" not in value else "",
)
def test_a_bug_is_an_alert_in_the_log_and_ends_it_with_111(sending: Sending, where: str, code: str) -> None:
    sending.program = patched(code)
    sending.put(b"joe@a.example", b"ann@here.example")
    sending.start()
    assert sending.wait() == 111
    assert re.search(r"^alert: bug: (Key|Memory)Error: '?a bug'?; \S+:\d+ in \w+", sending.log, re.M), sending.log


def test_without_room_for_a_thread_it_waits_and_goes_on(sending: Sending) -> None:
    sending.program = patched(
        "import threading, os\nstart = threading.Thread.start\ndef refuse(thread):\n"
        "    if os.path.exists('control/no-thread'): raise RuntimeError(\"can't start new thread\")\n"
        "    if os.path.exists('../control/no-thread'): raise RuntimeError(\"can't start new thread\")\n"
        "    start(thread)\nthreading.Thread.start = refuse"
    )
    full = sending.home / "control/no-thread"
    full.write_bytes(b"")
    sending.put(b"joe@a.example", b"ann@here.example", b"bob@here.example")
    sending.start().until_log("alert: unable to start a thread, will try again; what needs the disk waits\n")
    sending.until_log("status: local 0/10")
    full.unlink()
    sending.until(lambda: len(sending.commands["local"]) == 2)
