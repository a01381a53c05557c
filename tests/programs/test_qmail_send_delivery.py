"""qmail-send and its spawners: commands, reports, marks, passes and retries."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from pyqmail.protocol.spawn import Report, ReportParser, format_command, format_probe, format_report
from tests.programs.sending import BIN, Sending


def place(sending: Sending, number: int, *, due: float = 0, **files: bytes) -> None:
    """A message in S5: ``info`` and the channel files given; the body is there too."""
    (sending.queue / f"mess/{number % 3}/{number}").write_bytes(b"Subject: x\n\nhello\n")
    for part, text in files.items():
        path = sending.queue / f"{part}/{number % 3}/{number}"
        path.write_bytes(text)
        if due:
            os.utime(path, (due, due))


def people(count: int, domain: str = "here.example") -> list[bytes]:
    return [f"u{index}@{domain}".encode() for index in range(count)]


def channel_file(names: Iterable[bytes]) -> bytes:
    return b"".join(b"T" + name + b"\0" for name in names)


@pytest.mark.contract("send 5a.1", "send 11.8")
def test_the_lowest_free_slot_is_used_again_at_once(send_home: Path, sending: Sending) -> None:
    (send_home / "control/concurrencylocal").write_text("3\n")
    sending.put(b"joe@a.example", *people(5))
    sending.start().until(lambda: len(sending.commands["local"]) == 3)
    assert [command.slot for command in sending.commands["local"]] == [0, 1, 2]
    sending.report("local", 1, b"K")
    sending.until(lambda: len(sending.commands["local"]) == 4)
    sending.report("local", 2, b"K")
    sending.report("local", 0, b"K")
    sending.until(lambda: len(sending.commands["local"]) == 5)
    assert [command.slot for command in sending.commands["local"][3:]] in ([1, 0], [1, 2])


@pytest.mark.contract("send 5a.1")
def test_a_full_pipe_is_waited_for_and_the_bytes_are_whole(send_home: Path, sending: Sending) -> None:
    """A hundred commands of a kilobyte are more than a pipe holds."""
    (send_home / "control/concurrencylocal").write_text("120\n")
    names = [b"u%d-%b@here.example" % (index, b"x" * 900) for index in range(100)]
    number = sending.put(b"joe@a.example", *names)
    sending.start().until_log("status: local 7")
    sending.until(lambda: len(sending.commands["local"]) == 100)
    assert [command.recipient for command in sending.commands["local"]] == names
    assert {command.message for command in sending.commands["local"]} == {b"%d/%d" % (number % 3, number)}


@pytest.mark.contract("send 5a.2", "send 9a.1")
def test_a_report_is_kept_to_10000_bytes_and_made_safe(sending: Sending) -> None:
    sending.put(b"joe@a.example", *people(2))
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    sending.report("local", 0, b"Z", b"a b%\n\x7f\xff\t!" + b"y" * 20000)
    sending.until(lambda: sending.log.count("status: local 1/10") == 2)
    line = next(line for line in sending.log.splitlines() if "deferral" in line)
    assert line == "delivery 1: deferral: a_b_/___!" + "y" * (9998 - 9)


@pytest.mark.contract("send 5.1", "send 5.2", "send 5.4", "send 5a.5", "send 9.5", "send 9.6", "send 9.1")
def test_a_status_line_follows_each_start_and_each_report(sending: Sending) -> None:
    number = sending.put(b"joe@a.example", *people(3))
    sending.start().until(lambda: len(sending.commands["local"]) == 3)
    sending.report("local", 0, b"K", b"fine")
    sending.report("local", 1, b"Z", b"later")
    sending.report("local", 2, b"", b"")
    sending.until_log("mangled, will defer\nstatus:")
    assert sending.log.split(" uid 1000\n")[1].splitlines() == [
        f"starting delivery 1: msg {number} to local u0@here.example",
        "status: local 1/10 remote 0/20",
        f"starting delivery 2: msg {number} to local u1@here.example",
        "status: local 2/10 remote 0/20",
        f"starting delivery 3: msg {number} to local u2@here.example",
        "status: local 3/10 remote 0/20",
        "delivery 1: success: fine",
        "status: local 2/10 remote 0/20",
        "delivery 2: deferral: later",
        "status: local 1/10 remote 0/20",
        "delivery 3: report mangled, will defer",
        "status: local 0/10 remote 0/20",
    ]
    path = sending.queue / f"local/{number % 3}/{number}"
    assert path.read_bytes() == b"Du0@here.example\0Tu1@here.example\0Tu2@here.example\0"


@pytest.mark.contract("send 5a.3", "send 6a.3")
def test_a_mark_that_cannot_be_made_is_said(sending: Sending) -> None:
    number = sending.put(b"joe@a.example", *people(2))
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    name = f"local/{number % 3}/{number}"
    (sending.queue / name).unlink()
    (sending.queue / name).mkdir()
    sending.report("local", 0, b"K")
    sending.until_log(f"warning: trouble marking {name}; message will be delivered twice!\n")
    sending.report("local", 1, b"K")
    sending.until_log(f"warning: unable to unlink {name}; will try again later\n")


@pytest.mark.contract("send 5a.6")
def test_variable_senders_show_the_rewritten_recipient(sending: Sending) -> None:
    sending.put(b"list-@a.example-@[]", b"x@v.example", b"y@far.example")
    sending.start().until(lambda: sending.commands["local"] and sending.commands["remote"])
    assert sending.commands["local"][0].sender == b"list-alias-v-x=v.example@a.example"
    assert sending.commands["remote"][0].sender == b"list-y=far.example@a.example"


@pytest.mark.contract("send 5a.4", "send 9.8")
@pytest.mark.parametrize("lost", ["reports", "commands"])
def test_a_dying_spawner_lets_the_other_one_finish_and_every_mark_is_written(sending: Sending, lost: str) -> None:
    number = sending.put(b"joe@a.example", *people(2), *people(1, "far.example"))
    waiting = sending.put(b"joe@a.example", b"x@here.example", b"y@here.example")
    sending.start().until(lambda: len(sending.commands["local"]) == 4 and sending.commands["remote"])
    slots = {(command.message, command.recipient): command.slot for command in sending.commands["local"]}
    os.kill(sending.pid, signal.SIGSTOP)
    name = b"%d/%d" % (number % 3, number)
    sending.report("local", slots[name, b"u0@here.example"], b"K")
    if lost == "reports":
        sending.close(2)
    else:
        sending.put(b"joe@a.example", *people(2))
        sending.pull()
        sending.close(1)
    os.kill(sending.pid, signal.SIGCONT)
    sending.until_log("alert: oh no! lost spawn connection! dying...\n")
    sending.report("remote", 0, b"D", b"no such user")
    assert sending.wait() == 0
    assert sending.log.endswith("status: exiting\n")
    local = (sending.queue / f"local/{number % 3}/{number}").read_bytes()
    assert local == b"Du0@here.example\0Tu1@here.example\0"
    assert not (sending.queue / f"remote/{number % 3}/{number}").exists()
    assert b"no such user" in (sending.queue / f"bounce/{number}").read_bytes()
    assert (sending.queue / f"local/{waiting % 3}/{waiting}").read_bytes().count(b"T") == 2


@pytest.mark.contract("send 6.1", "send 6.2", "send 6a.1")
@pytest.mark.parametrize(("channel", "step"), [("local", 10), ("remote", 20)])
def test_the_next_retry_goes_by_the_birth(sending: Sending, channel: str, step: int) -> None:
    domain = "here.example" if channel == "local" else "far.example"
    birth = int(time.time()) - 10000
    place(sending, 7, info=b"Fjoe@a.example\0", **{channel: channel_file(people(1, domain))})
    os.utime(sending.queue / "info/1/7", (birth, birth))
    sending.start().until(lambda: sending.commands[channel])
    sending.report(channel, 0, b"Z")
    sending.until_log("deferral")
    assert sending.finish() == 0
    due = int((sending.queue / f"{channel}/1/7").stat().st_mtime)
    assert due in [birth + (root + step) ** 2 for root in (100, 101)]


@pytest.mark.contract("send 6.2")
def test_a_birth_in_the_future_counts_as_now(sending: Sending) -> None:
    began = int(time.time())
    birth = began + 5000
    place(sending, 7, info=b"Fjoe@a.example\0", local=channel_file(people(1)))
    os.utime(sending.queue / "info/1/7", (birth, birth))
    sending.start().until(lambda: sending.commands["local"])
    sending.report("local", 0, b"Z")
    sending.until_log("deferral")
    assert sending.finish() == 0
    assert began + 100 <= int((sending.queue / "local/1/7").stat().st_mtime) <= time.time() + 100


@pytest.mark.contract("send 6.4", "send 11.9")
@pytest.mark.parametrize(("age", "outcome"), [(90, "deferral"), (110, "failure")])
def test_dying_goes_by_the_start_of_the_pass(send_home: Path, sending: Sending, age: int, outcome: str) -> None:
    (send_home / "control/queuelifetime").write_text("100\n")
    place(sending, 7, info=b"Fjoe@a.example\0", local=channel_file(people(2)))
    birth = time.time() - age
    os.utime(sending.queue / "info/1/7", (birth, birth))
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    os.utime(sending.queue / "info/1/7", (1, 1))  # as if time had passed: the pass has begun
    sending.report("local", 0, b"Z", b"later\n")
    sending.until_log(f"delivery 1: {outcome}: later/")


@pytest.mark.contract("send 6.5", "send 9.9")
@pytest.mark.parametrize("broken", ["info", "local"])
def test_own_trouble_is_tried_again_in_123_seconds(sending: Sending, broken: str) -> None:
    place(sending, 7, info=b"Fjoe@a.example\0", local=channel_file(people(1)))
    place(sending, 8, info=b"Fjoe@a.example\0", local=channel_file(people(1)))
    path = sending.queue / f"{broken}/1/7"
    path.unlink()
    if broken == "info":
        path.write_bytes(b"")  # cut by a crash
    else:
        folder = os.open(path.parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as odd:
            odd.bind(f"/proc/self/fd/{folder}/7")  # it is there, and even root cannot open it
        os.close(folder)
    now = int(time.time())
    sending.start().until(lambda: sending.commands["local"])
    sending.until_log("warning: trouble opening local/1/7; will try again later\n")
    sending.report("local", 0, b"K")
    assert sending.finish() == 0
    assert now + 123 <= (sending.queue / "local/1/7").stat().st_mtime <= time.time() + 123
    assert [command.message for command in sending.commands["local"]] == [b"2/8"]


@pytest.mark.contract("send 9.9")
def test_a_file_that_cannot_even_be_looked_at_is_said(sending: Sending) -> None:
    place(sending, 7, info=b"Fjoe@a.example\0")
    (sending.queue / "local/1/7").symlink_to("7")
    place(sending, 8, info=b"Fjoe@a.example\0", local=channel_file(people(1)))
    sending.start().until_log("warning: unable to stat info/1/7; will try again later\n")
    sending.until(lambda: sending.commands["local"])
    assert "end msg 7" not in sending.log


@pytest.mark.contract("send 6a.4", "send 6a.3")
@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"Du0@here.example\0Tu1@here.example\0Xu2@here.example\0", "warning: unknown record type in local/1/7!"),
        (bytes(40), "warning: unknown record type in local/1/7!"),
        (b"Du0@here.example\0Tu1@here.example\0Tu2@here", "warning: trouble reading local/1/7; will try again later"),
    ],
    ids=["another mark", "zeros", "cut"],
)
def test_a_damaged_channel_file_is_said_and_left(sending: Sending, text: bytes, line: str) -> None:
    place(sending, 7, info=b"Fjoe@a.example\0", local=text)
    place(sending, 8, info=b"Fjoe@a.example\0", local=channel_file(people(1)), due=time.time() - 1)
    sending.start().until_log(line + "\n")
    sending.until(lambda: any(command.message == b"2/8" for command in sending.commands["local"]))
    for command in list(sending.commands["local"]):
        sending.report("local", command.slot, b"K")
    sending.until_log("end msg 8\n")
    assert sending.finish() == 0
    left = (sending.queue / "local/1/7").read_bytes()
    assert left == text.replace(b"Tu1", b"Du1")
    assert (sending.queue / "info/1/7").exists()


@pytest.mark.contract("send 6a.2", "send 7.1")
def test_a_message_is_never_in_two_passes_of_a_channel(sending: Sending) -> None:
    number = sending.put(b"joe@a.example", *people(2))
    sending.start().until(lambda: len(sending.commands["local"]) == 2)
    os.kill(sending.pid, signal.SIGALRM)
    other = sending.put(b"joe@a.example", *people(2))
    sending.pull()
    sending.until(lambda: len(sending.commands["local"]) == 4)
    sending.report("local", 0, b"Z")
    sending.until_log("deferral")
    os.kill(sending.pid, signal.SIGALRM)
    third = sending.put(b"joe@a.example", *people(2))
    sending.pull()
    sending.until(lambda: len(sending.commands["local"]) == 6)
    order = [int(command.message.partition(b"/")[2]) for command in sending.commands["local"]]
    assert order == [number] * 2 + [other] * 2 + [third] * 2


@pytest.mark.contract("send 6a.5", "send 9.7")
def test_what_is_finished_ends_after_a_look_at_everything(sending: Sending) -> None:
    place(sending, 7, info=b"Fjoe@a.example\0")
    place(sending, 9, info=b"Fjoe@a.example\0", local=b"Du0@here.example\0")
    sending.start().until_log("end msg 7\n")
    sending.until_log("end msg 9\n")
    sending.until(lambda: sorted(sending.requests) == [b"foop/7", b"foop/9"])
    assert not (sending.queue / "info/1/7").exists()


@pytest.mark.contract("send 6a.5")
def test_an_info_file_that_cannot_be_removed_is_tried_again_later(sending: Sending) -> None:
    info = sending.queue / "info/1/7"
    place(sending, 7)
    info.mkdir()
    sending.start().until_log("end msg 7\nwarning: unable to unlink info/1/7; will try again later\n")
    assert sending.requests == []


def test_an_info_file_without_its_message_is_set_aside(sending: Sending) -> None:
    place(sending, 7, info=b"Fjoe@a.example\0", local=channel_file(people(1)))
    (sending.queue / "mess/1/7").unlink()
    place(sending, 8, info=b"Fjoe@a.example\0", local=channel_file(people(1)))
    sending.start().until_log("alert: info/1/7 has no message, set aside\n")
    sending.until(lambda: sending.commands["local"])
    assert [command.message for command in sending.commands["local"]] == [b"2/8"]
    assert (sending.queue / "local/1/7.aside").read_bytes() == channel_file(people(1))


@pytest.mark.contract("send 6a.7")
def test_new_messages_and_a_thousand_old_ones_due_at_once_are_served_in_turn(send_home: Path, sending: Sending) -> None:
    (send_home / "control/userconcurrency").write_text("0\n")
    for number in range(3, 1003):
        place(sending, number, info=b"Fjoe@a.example\0", local=channel_file(people(1)))
    sending.start().until(lambda: len(sending.commands["local"]) == 10)
    new = sending.put(b"joe@a.example", *people(2, "HERE.example"))
    sending.pull()
    served = 0

    def new_one_served() -> bool:
        nonlocal served
        commands, sending.commands["local"] = sending.commands["local"], []
        for command in commands:
            sending.report("local", command.slot, b"K")
        served += len(commands)
        return any(command.message.endswith(b"/%d" % new) for command in commands)

    sending.until(new_one_served)
    assert served < 500


@pytest.mark.contract("send 6a.7", "send 6a.6")
def test_a_long_list_that_is_nearly_done_keeps_the_other_channel_going(sending: Sending) -> None:
    done = channel_file(people(50_000)).replace(b"Tu", b"Du")
    place(sending, 7, info=b"Fjoe@a.example\0", local=done + channel_file([b"last@here.example"]))
    place(sending, 8, info=b"Fjoe@a.example\0", remote=channel_file(people(1, "far.example")))
    sending.start().until(lambda: sending.commands["local"] and sending.commands["remote"])
    assert sending.log.index("msg 8 to remote") < sending.log.index("msg 7 to local last@here.example")


class TestWide:
    """More deliveries at once than a byte can number, where both sides are ours."""

    def start(self, home: Path, sending: Sending, control: str = "300\n") -> None:
        (home / "control/concurrencyremote").write_text(control)
        (home / "control/domainconcurrency").write_text("*:0\n")
        sending.start((b"\x78", b"\xff"))

    def test_a_foreign_spawner_stays_narrow(self, send_home: Path, sending: Sending) -> None:
        sending.put(b"joe@a.example", *people(260, "far.example"))
        self.start(send_home, sending)
        sending.until(lambda: sending.commands["remote"])
        assert sending.commands["remote"][0].probe
        sending.report("remote", 255, b"Z", b"delivery number out of range\n")
        sending.until(lambda: len(sending.commands["remote"]) == 256)
        assert {command.slot for command in sending.commands["remote"][1:]} == set(range(255))
        sending.report("remote", 254, b"K")
        sending.until(lambda: len(sending.commands["remote"]) == 257)
        assert "remote 255/255\n" in sending.log

    @pytest.mark.parametrize(("control", "limit"), [("300\n", b"\xfe"), ("255\n", b"\xff")])
    def test_nothing_is_asked_where_it_cannot_help(
        self, send_home: Path, sending: Sending, control: str, limit: bytes
    ) -> None:
        (send_home / "control/concurrencyremote").write_text(control)
        sending.put(b"joe@a.example", b"x@far.example", b"y@far.example")
        sending.start((b"\x78", limit)).until(lambda: len(sending.commands["remote"]) == 2)
        assert [command.recipient for command in sending.commands["remote"]] == [b"x@far.example", b"y@far.example"]

    def test_a_hangup_may_widen_while_deliveries_run(self, send_home: Path, sending: Sending) -> None:
        """The answer, and a report that is wide already, come in one piece."""
        number = sending.put(b"joe@a.example", *people(300, "far.example"))
        self.start(send_home, sending, "2\n")
        sending.until(lambda: len(sending.commands["remote"]) == 2)
        (send_home / "control/concurrencyremote").write_text("290\n")
        os.kill(sending.pid, signal.SIGHUP)
        sending.until(lambda: len(sending.commands["remote"]) == 3)
        assert sending.commands["remote"][2].probe
        narrow = format_report(0, b"K", b"narrow")
        os.write(sending.ours[4], narrow + b"\xffW1000\0" + format_report(1, b"K", b"wide", wide=True))
        sending._parsers["remote"].wide = True
        sending.until(lambda: len(sending.commands["remote"]) == 3 + 290)
        assert "delivery 1: success: narrow\n" in sending.log
        assert "delivery 2: success: wide\n" in sending.log
        assert {command.slot for command in sending.commands["remote"][3:]} == set(range(290))
        marks = (sending.queue / f"remote/{number % 3}/{number}").read_bytes().split(b"\0")
        assert [mark[:1] for mark in marks[:3]] == [b"D", b"D", b"T"]

    def test_a_probe_waits_behind_a_half_written_command(self, send_home: Path, sending: Sending) -> None:
        names = [b"r%d-%b@far.example" % (index, b"x" * 900) for index in range(200)]
        sending.put(b"joe@a.example", *names)
        self.start(send_home, sending, "200\n")
        unread = sending.ours.pop(3)
        sending.until_log("starting delivery 64")  # more than the pipe takes
        (send_home / "control/concurrencyremote").write_text("300\n")
        os.kill(sending.pid, signal.SIGHUP)
        sending.put(b"joe@a.example", *people(2))
        sending.pull()
        sending.until(lambda: sending.commands["local"])
        sending.ours[3] = unread
        sending.until(lambda: any(command.probe for command in sending.commands["remote"]))
        started = len(sending.commands["remote"]) - 1
        assert sending.commands["remote"][-1].probe
        assert [command.recipient for command in sending.commands["remote"][:-1]] == names[:started]
        os.write(sending.ours[4], b"\xffW400\0")
        sending._parsers["remote"].wide = True
        sending.until(lambda: len(sending.commands["remote"]) == 201)
        assert [command.recipient for command in sending.commands["remote"] if not command.probe] == names

    def test_a_wide_report_may_number_any_slot(self, send_home: Path, sending: Sending) -> None:
        self.start(send_home, sending, "600\n")
        sending.until(lambda: sending.commands["remote"])
        os.write(sending.ours[4], b"\xffW600\0")
        sending._parsers["remote"].wide = True
        sending.put(b"joe@a.example", *people(600, "far.example"))
        sending.pull()
        sending.until(lambda: len(sending.commands["remote"]) == 601)
        for slot in (0, 255, 256, 511, 512, 599):
            os.write(sending.ours[4], format_report(slot, b"K", b"slot-%d" % slot, wide=True))
        sending.until(lambda: sending.log.count("success: slot-") == 6)
        os.write(sending.ours[4], format_report(600, b"K", b"", wide=True))
        sending.until_log("warning: internal error: delivery report out of range\n")

    def test_our_own_spawner_takes_more_than_a_byte_can_number(self, send_home: Path, sending: Sending) -> None:
        """The real qmail-rspawn, with a program in place of qmail-remote that waits for the gate to open."""
        gate = send_home / "gate"
        os.mkfifo(gate)
        remote = send_home / "remote"
        remote.write_text(f"#!/bin/sh\nread line <{gate}\nprintf 'r\\0Kgone out\\n\\0'\n")
        remote.chmod(0o755)
        (send_home / "control/conf-spawn").write_text("400\n")
        (send_home / "control/concurrencyremote").write_text("280\n")
        (send_home / "control/domainconcurrency").write_text("*:0\n")
        number = sending.put(b"joe@a.example", *people(300, "far.example"))
        owner = int((send_home / "control/conf-users").read_text().split()[0])
        os.chown(sending.queue / f"mess/{number % 3}/{number}", owner, -1)
        sending.start((b"\x78", b""))
        pid = sending.attach_spawner("remote", [str(BIN / "qmail-rspawn")], {"QMAILREMOTE": str(remote)})
        sending.until_log("remote 280/280\n")
        opened = os.open(gate, os.O_RDWR)
        os.write(opened, b"\n" * 300)
        sending.until_log(f"end msg {number}\n")
        os.close(opened)
        assert sending.log.count("success: gone_out/") == 300
        assert sending.finish() == 0
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_answer_to_a_probe_makes_the_rest_of_the_piece_wide() -> None:
    parser = ReportParser()
    parser.expect_probe_answer()
    got = parser.feed(b"\x05Kold\0\xffW700\0" + format_report(300, b"K", b"new", wide=True))
    assert [(report.slot, report.text) for report in got] == [(5, b"old"), (255, b"700"), (300, b"new")]


class TestDomains:
    """control/domainconcurrency."""

    def test_a_full_domain_blocks_nobody_else(self, send_home: Path, sending: Sending) -> None:
        (send_home / "control/domainconcurrency").write_text("big.example:2\n")
        for _ in range(5):
            sending.put(b"joe@a.example", b"x@Big.Example", b"y@big.example")
        sending.put(b"joe@a.example", *people(6, "far.example"))
        sending.start().until(lambda: len(sending.commands["remote"]) == 8)
        big = [command for command in sending.commands["remote"] if b"far" not in command.recipient]
        assert len(big) == 2
        started = 8
        while started < 16:
            command = big.pop()
            sending.report("remote", command.slot, b"K")
            started += 1
            sending.until(lambda count=started: len(sending.commands["remote"]) == count)  # type: ignore[misc]
            big.append(sending.commands["remote"][-1])
            assert b"far" not in big[-1].recipient.lower()
        for command in big:
            sending.report("remote", command.slot, b"K")
        sending.until(lambda: sending.log.count("end msg") == 5)

    def test_who_was_deferred_is_not_tried_again_because_a_domain_has_room(
        self, send_home: Path, sending: Sending
    ) -> None:
        (send_home / "control/domainconcurrency").write_text("big.example:1\n")
        number = sending.put(b"joe@a.example", b"a@far.example", b"b@big.example", b"c@big.example", b"d@big.example")
        sending.start().until(lambda: len(sending.commands["remote"]) == 2)
        sending.report("remote", 0, b"Z", b"later")
        for slot, name in ((1, b"c@big.example"), (0, b"d@big.example")):
            sending.report("remote", slot, b"K")
            sending.until(lambda name=name: sending.commands["remote"][-1].recipient == name)  # type: ignore[misc]
        sending.report("remote", sending.commands["remote"][-1].slot, b"K")
        sending.until(lambda: sending.log.count("success") == 3)
        assert len(sending.commands["remote"]) == 4
        assert sending.finish() == 0
        path = sending.queue / f"remote/{number % 3}/{number}"
        assert [record[:1] for record in path.read_bytes().split(b"\0")] == [b"T", b"D", b"D", b"D", b""]
        birth = (sending.queue / f"info/{number % 3}/{number}").stat().st_mtime
        assert path.stat().st_mtime >= int(birth) + 400

    def test_a_hangup_lifts_a_limit_for_those_that_wait(self, send_home: Path, sending: Sending) -> None:
        limits = send_home / "control/domainconcurrency"
        limits.write_text("big.example:1\n")
        sending.put(b"joe@a.example", *people(3, "big.example"))
        sending.put(b"joe@a.example", *people(3, "big.example"))
        sending.start().until(lambda: len(sending.commands["remote"]) == 1)
        limits.write_text("big.example:4\n")
        os.kill(sending.pid, signal.SIGHUP)
        sending.until(lambda: len(sending.commands["remote"]) == 4)
        limits.unlink()
        os.kill(sending.pid, signal.SIGHUP)
        sending.until(lambda: len(sending.commands["remote"]) == 6)


if "NOTQMAIL_HOME" in os.environ:

    def test_a_probe_does_notqmails_spawner_no_harm() -> None:
        """It answers the probe as any slot out of range, and serves the next command."""
        program = os.environ["NOTQMAIL_HOME"] + "/bin/qmail-rspawn"
        process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.read(1)
        parser = ReportParser()
        parser.expect_probe_answer()
        process.stdin.write(format_probe() + format_command(3, b"0/0", b"a@b.example", b"c@d.example"))
        process.stdin.flush()
        reports: list[Report] = []
        while len(reports) < 2:
            reports += parser.feed(process.stdout.read1(1000))
        assert [(report.slot, report.letter) for report in reports] == [(255, b"Z"), (3, b"Z")]
        assert not parser.wide
        process.communicate(timeout=20)
