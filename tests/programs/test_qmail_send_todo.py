"""qmail-send and todo/: what is taken out of it, what stays, and that the rest goes on."""

import os
import re
import resource
import shutil
import signal
from pathlib import Path

import pytest

from pyqmail.send.todo_scan import SCAN_S
from tests.programs.sending import Sending, patched

TWO = (b"ann@here.example", b"bob@here.example")


def delivered(sending: Sending, number: int) -> bool:
    """Whether a command for ``number`` has come."""
    return any(command.message.endswith(b"/%d" % number) for command in sending.commands["local"])


def breaks(sending: Sending, part: str, number: int) -> None:
    """Put a directory that is not empty where the file of ``part`` belongs."""
    path = sending.queue / f"{part}/{number % 3}/{number}"
    path.mkdir()
    (path / "x").write_bytes(b"")


@pytest.mark.contract("send 4.1", "send 4.6", "send 9.9")
@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("loop", "warning: unable to open todo/{n}"),
        ("directory", "warning: trouble reading todo/{n}"),
        ("record", "warning: unknown record type in todo/{n}"),
        ("cut", "warning: unknown record type in todo/{n}"),
        ("zeros", "warning: unknown record type in todo/{n}"),
        ("info", "warning: unable to unlink info/{r}/{n}"),
        ("local", "warning: unable to unlink local/{r}/{n}"),
    ],
)
def test_a_damaged_message_is_logged_and_left_and_the_rest_goes_on(sending: Sending, damage: str, text: str) -> None:
    bad = sending.put(b"joe@a.example", *TWO)
    good = sending.put(b"joe@a.example", *TWO)
    todo = sending.queue / f"todo/{bad}"
    match damage:
        case "loop":
            todo.unlink()
            todo.symlink_to(todo)
        case "directory":
            todo.unlink()
            todo.mkdir()
        case "record":
            todo.write_bytes(todo.read_bytes() + b"Xwhat\0")
        case "cut":
            todo.write_bytes(todo.read_bytes()[:-3])
        case "zeros":
            todo.write_bytes(bytes(100))
        case part:
            breaks(sending, part, bad)
    sending.start().until_log(text.format(n=bad, r=bad % 3) + "\n")
    sending.until(lambda: delivered(sending, good))
    assert not delivered(sending, bad)
    assert os.path.lexists(todo) and (sending.queue / f"mess/{bad % 3}/{bad}").exists()


@pytest.mark.contract("send 4.2")
def test_a_message_that_vanished_while_running(sending: Sending) -> None:
    sending.start().until_log("status:")
    good = sending.put(b"joe@a.example", *TWO)
    sending.pull()
    sending.until(lambda: delivered(sending, good))
    bad = sending.put(b"joe@a.example", *TWO)
    (sending.queue / f"mess/{bad % 3}/{bad}").unlink()
    sending.pull()
    sending.until_log(f"warning: unable to stat mess/{bad % 3}/{bad}\n")
    assert (sending.queue / f"todo/{bad}").exists()


@pytest.mark.contract("send 4.4")
def test_a_file_that_cannot_be_created(sending: Sending) -> None:
    sending.start().until_log("status:")
    os.kill(sending.pid, signal.SIGSTOP)  # its first scan may not be over
    number = sending.put(b"joe@a.example", *TWO)
    folder = sending.queue / f"local/{number % 3}"
    folder.rmdir()
    os.kill(sending.pid, signal.SIGCONT)
    sending.pull()
    sending.until_log(f"warning: unable to create local/{number % 3}/{number}\n")
    folder.mkdir()
    sending.pull()
    sending.until(lambda: delivered(sending, number))
    assert sending.log.count(f"new msg {number}\n") == 2


@pytest.mark.contract("send 4.6")
def test_a_disk_that_takes_nothing(sending: Sending) -> None:
    sending.start().until_log("status:")
    number = sending.put(b"joe@a.example", *TWO)
    resource.prlimit(sending.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    sending.pull()
    sending.until_log(f"warning: trouble writing to info/{number % 3}/{number}\n")
    resource.prlimit(sending.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sending.pull()
    sending.until(lambda: delivered(sending, number))


@pytest.mark.contract("send 4.7")
@pytest.mark.parametrize("which", ["sync", "sync_directory"])
def test_what_is_not_on_disk_is_not_taken_out_of_todo(sending: Sending, which: str) -> None:
    sending.program = patched(
        "import errno\nfrom pyqmail.system import files\n"
        f"real = files.{which}\nfailures = [1]\n"
        "def sync(path):\n"
        "    if failures.pop() if failures else 0:\n"
        "        raise OSError(errno.EIO, 'EIO')\n"
        "    real(path)\n"
        f"files.{which} = sync"
    )
    number = sending.put(b"joe@a.example", *TWO)
    sending.start().until_log("warning: trouble fsyncing info/")
    assert not sending.requests
    sending.pull()
    sending.until(lambda: delivered(sending, number))


@pytest.mark.contract("send 6a.6", "send 9.8")
def test_out_of_memory_is_said_and_the_message_stays(sending: Sending) -> None:
    sending.program = patched(
        "from pyqmail.send import todo_pass\nreal = todo_pass.examine\nfailures = [1]\n"
        "def examine(*args):\n"
        "    if failures.pop() if failures else 0:\n"
        "        raise MemoryError\n"
        "    return real(*args)\n"
        "todo_pass.examine = examine\n"
        "from pyqmail.send import daemon\ndaemon.SLEEP_S = 0.1"
    )
    number = sending.put(b"joe@a.example", *TWO)
    sending.start().until_log("alert: out of memory, sleeping...\n")
    sending.until(lambda: delivered(sending, number))


@pytest.mark.contract("send 4b.1")
def test_scans_at_start_and_on_trigger_and_only_numbers(sending: Sending) -> None:
    (sending.queue / "todo/word").write_bytes(b"u1\0")
    (sending.queue / "todo/12x").write_bytes(b"u1\0")
    first = sending.put(b"joe@a.example", *TWO)
    sending.start().until(lambda: delivered(sending, first))
    second = sending.put(b"joe@a.example", *TWO)
    sending.pull()
    sending.until(lambda: delivered(sending, second))
    assert "warning" not in sending.log and "alert" not in sending.log


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.contract("send 4b.1", "send 6.7")
def test_without_anything_to_do_it_waits_for_the_next_scan(send_home: Path, sending: Sending) -> None:
    trace = send_home / "trace"
    calls = "trace=epoll_wait,epoll_pwait"
    sending.program = ["strace", "-D", "-f", "-qq", "-o", str(trace), "-e", calls, *sending.program]
    sending.start().until_log("status:")

    def waits() -> list[int]:
        return [int(wait) for wait in re.findall(r", (\d+)(?:, NULL, 8)?\) += ", trace.read_text())]

    def pulled() -> bool:
        sending.pull()
        return any(wait > 1_000_000 for wait in waits())

    sending.until(pulled)  # the kernel's answer ends the line of the trace
    assert max(waits()) <= SCAN_S * 1000 + 1000


@pytest.mark.contract("send 4b.2", "send 4.9", "send 11.7")
def test_order_and_duplicates_are_kept(sending: Sending) -> None:
    names = [b"b@far.example", b"a@here.example", b"b@far.example", b"z@here.example", b"a@here.example"]
    number = sending.put(b"joe@a.example", *names)
    sending.start().until(lambda: len(sending.commands["local"]) == 3 and len(sending.commands["remote"]) == 2)
    name = f"{number % 3}/{number}"
    local = b"Ta@here.example\0Tz@here.example\0Ta@here.example\0"
    assert (sending.queue / f"local/{name}").read_bytes() == local
    assert (sending.queue / f"remote/{name}").read_bytes() == b"Tb@far.example\0" * 2
    assert (sending.queue / f"mess/{name}").exists()


LONG_LIST = [
    b"user%d-with-a-rather-long-name@%b" % (index, (b"here.example", b"far.example")[index % 3 == 0])
    for index in range(40_000)
]


@pytest.mark.contract("send 4.6", "send 4b.2", "send 6a.7")
def test_a_very_long_envelope_is_prepared_in_slices_between_other_messages(sending: Sending) -> None:
    long = sending.put(b"joe@a.example", *LONG_LIST)
    others = [sending.put(b"joe@a.example", *TWO) for _ in range(5)]
    sending.start().until(lambda: b"todo/%d" % long in sending.requests)
    assert all(f"new msg {other}\n" in sending.log.split(f"new msg {long}\n")[0] for other in others)
    assert f"new msg {long}\ninfo msg {long}: bytes 18 from <joe@a.example> qp 77 uid 1000\n" in sending.log
    for part, domain in (("local", b"here"), ("remote", b"far")):
        data = (sending.queue / f"{part}/{long % 3}/{long}").read_bytes()
        wanted = [b"T" + name for name in LONG_LIST if name.endswith(domain + b".example")]
        assert data.replace(b"\0D", b"\0T").split(b"\0")[:-1] == wanted
    assert (sending.queue / f"info/{long % 3}/{long}").read_bytes() == b"Fjoe@a.example\0"


@pytest.mark.contract("send 4.6", "send 9.9")
@pytest.mark.parametrize(
    ("damage", "text"), [(b"Xodd\0", "unknown record type in"), (b"Tcut", "unknown record type in")]
)
def test_a_very_long_envelope_that_is_damaged_is_left(sending: Sending, damage: bytes, text: str) -> None:
    long = sending.put(b"joe@a.example", *LONG_LIST)
    with (sending.queue / f"todo/{long}").open("ab") as todo:
        todo.write(damage)
    good = sending.put(b"joe@a.example", *TWO)
    sending.start().until_log(f"warning: {text} todo/{long}\n")
    sending.until(lambda: delivered(sending, good))
    assert not delivered(sending, long)


@pytest.mark.contract("send 4.9", "send 6a.5", "send 11.6")
def test_without_slots_todo_is_still_processed_and_what_is_finished_ends(send_home: Path, sending: Sending) -> None:
    for channel in ("local", "remote"):
        (send_home / f"control/concurrency{channel}").write_text("0\n")
    nobody = sending.put(b"joe@a.example")
    somebody = sending.put(b"joe@a.example", *TWO)
    sending.start().until_log(f"end msg {nobody}\n")
    sending.until(lambda: b"todo/%d" % somebody in sending.requests)
    sending.until(lambda: b"foop/%d" % nobody in sending.requests)
    assert sending.log.startswith("status: local 0/0 remote 0/0\n")
    assert sending.commands == {"local": [], "remote": []}
    assert sending.finish() == 0


@pytest.mark.contract("send 4.8", "send 11.7")
def test_what_qmail_clean_does_not_remove_stays(sending: Sending) -> None:
    number = sending.put(b"joe@a.example", *TWO)
    sending.clean_answer = b"!"
    sending.start().until_log(f"warning: qmail-clean unable to clean up todo/{number}\n")
    for part in (f"mess/{number % 3}", "todo", "intd", f"info/{number % 3}"):
        assert (sending.queue / part / str(number)).exists()


@pytest.mark.contract("send 11.3", "send 4a.1")
def test_an_empty_recipient_is_one_at_the_default_host(send_home: Path, sending: Sending) -> None:
    (send_home / "control/envnoathost").write_text("here.example\n")
    sending.put(b"joe@a.example", b"")
    sending.start().until(lambda: sending.commands["local"])
    assert sending.commands["local"][0].recipient == b"@here.example"


def test_an_envelope_without_its_message_is_set_aside_at_start(sending: Sending) -> None:
    good = sending.put(b"joe@a.example", *TWO)
    bad = sending.put(b"joe@a.example", *TWO)
    (sending.queue / f"mess/{bad % 3}/{bad}").unlink()
    sending.start().until_log(f"alert: todo/{bad} has no message, set aside\n")
    sending.until(lambda: delivered(sending, good))
    assert not (sending.queue / f"todo/{bad}").exists()


def finished(sending: Sending) -> int:
    """The exit code after all deliveries have been told to be done."""
    for command in sending.commands["local"]:
        sending.report("local", command.slot, b"K")
    sending.commands["local"].clear()
    return sending.finish()


@pytest.mark.parametrize("part", ["mess", "info", "local", "remote"])
def test_a_stray_directory_is_named_and_stops_no_mail(sending: Sending, part: str) -> None:
    (sending.queue / part / "3").mkdir()
    old = sending.put(b"joe@a.example", *TWO)
    sending.start().until_log(
        f"alert: queue/{part}/3 does not belong to a queue split into 3: nothing in it is seen\nstatus:"
    )
    sending.until(lambda: delivered(sending, old))
    new = sending.put(b"joe@a.example", *TWO)
    sending.pull()
    sending.until(lambda: delivered(sending, new))
    assert finished(sending) == 0
    assert "set aside" not in sending.log


@pytest.mark.parametrize("part", ["mess", "info", "local"])
def test_a_missing_directory_is_named_and_stops_only_its_own_mail(sending: Sending, part: str) -> None:
    old = [sending.put(b"joe@a.example", *TWO) for _ in range(6)]
    kept = [number for number in old if number % 3 != 2]
    lost = [number for number in old if number % 3 == 2]
    (sending.queue / part / "2").rename(sending.queue / "away")
    sending.start().until_log(f"alert: queue/{part}/2 is missing: messages that belong there")
    sending.until(lambda: all(delivered(sending, number) for number in kept))
    assert finished(sending) == 0
    assert all((sending.queue / f"todo/{number}").exists() for number in lost)
    assert "set aside" not in sending.log
    (sending.queue / "away").rename(sending.queue / part / "2")
    sending.start().until(lambda: all(delivered(sending, number) for number in lost))


@pytest.mark.parametrize("part", ["mess", "info", "local"])
def test_a_known_message_whose_directory_is_missing_is_not_lost(sending: Sending, part: str) -> None:
    for name, text in (("mess", b"x\n"), ("info", b"Fjoe@a.example\0"), ("local", b"Tann@here.example\0")):
        (sending.queue / f"{name}/2/8").write_bytes(text)
    good = sending.put(b"joe@a.example", *TWO)
    while good % 3 == 2:
        good = sending.put(b"joe@a.example", *TWO)
    (sending.queue / part / "2").rename(sending.queue / "away")
    sending.start().until(lambda: delivered(sending, good))
    assert finished(sending) == 0
    assert sending.requests and b"foop/8" not in b"".join(sending.requests)
    (sending.queue / "away").rename(sending.queue / part / "2")
    sending.start().until(lambda: delivered(sending, 8))


@pytest.mark.contract("send 6a.7")
def test_deliveries_go_on_while_hundreds_of_messages_wait_in_todo(sending: Sending) -> None:
    numbers = {sending.put(b"joe@a.example", *TWO) for _ in range(600)}
    sending.start()
    before_the_last = delivered = 0

    def all_done() -> bool:
        nonlocal before_the_last, delivered
        commands, sending.commands["local"] = sending.commands["local"], []
        for command in commands:
            sending.report("local", command.slot, b"K")
        delivered += len(commands)
        if sum(request.startswith(b"todo/") for request in sending.requests) < len(numbers):
            before_the_last = delivered
        return delivered == 2 * len(numbers)

    sending.until(all_done)
    assert before_the_last > 20
    sending.until(lambda: sum(request.startswith(b"foop/") for request in sending.requests) == len(numbers))


@pytest.mark.contract("send 6a.7")
def test_todo_is_preprocessed_while_no_delivery_ends(sending: Sending) -> None:
    numbers = {sending.put(b"joe@a.example", *TWO) for _ in range(200)}
    sending.start()
    sending.until(lambda: sum(request.startswith(b"todo/") for request in sending.requests) == len(numbers))
    assert len(sending.commands["local"]) == 10
