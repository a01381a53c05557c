"""qmail-send as a process: real queue, scripted spawners."""

import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

from tests.programs.sending import Sending


@pytest.mark.contract("send 2.10", "send 9.1", "send 9.2", "send 7.3")
def test_it_says_its_status_and_exits_0_on_term(sending: Sending) -> None:
    sending.start()
    sending.until_log("status: local 0/10 remote 0/20\n")
    assert sending.finish() == 0
    assert sending.log.endswith("status: exiting\n")


@pytest.mark.contract("send 4.5", "send 4.6", "send 4.8", "send 4.9", "send 5.1", "queue 3.3", "queue 4.5")
@pytest.mark.contract("send 9.3", "send 9.4", "send 9.5")
def test_a_message_goes_from_todo_to_its_end(sending: Sending) -> None:
    sending.start().until_log("status:")
    number = sending.put(b"joe@a.example", b"ann@here.example", b"bob@far.example", b"x@V.example")
    sending.pull()
    sending.until(lambda: len(sending.commands["local"]) == 2 and len(sending.commands["remote"]) == 1)
    assert f"new msg {number}\ninfo msg {number}: bytes 18 from <joe@a.example> qp 77 uid 1000\n" in sending.log
    first, second = sending.commands["local"]
    assert (first.slot, first.message, first.sender) == (0, b"%d/%d" % (number % 3, number), b"joe@a.example")
    assert [first.recipient, second.recipient] == [b"ann@here.example", b"alias-v-x@V.example"]
    assert sending.files(number) == {"mess", "info", "local", "remote"}
    assert (sending.queue / f"info/{number % 3}/{number}").read_bytes() == b"Fjoe@a.example\0"
    for slot in (1, 0):
        sending.report("local", slot, b"K", b"did 1+0+0\n")
    sending.report("remote", 0, b"K", b"ok")
    sending.until(lambda: b"foop/%d" % number in sending.requests)
    assert "success: did_1+0+0/\n" in sending.log
    assert f"end msg {number}\n" in sending.log
    assert sending.files(number) == set()
    assert sending.finish() == 0


@pytest.mark.contract("send 6.1", "send 6.2", "send 5.2", "send 7.3")
def test_a_deferral_waits_and_its_time_is_saved_on_exit(sending: Sending) -> None:
    number = sending.put(b"joe@a.example", b"ann@here.example")
    sending.start().until(lambda: sending.commands["local"])
    sending.report("local", 0, b"Z", b"later")
    sending.until_log("deferral: later\nstatus: local 0/10")
    assert sending.finish() == 0
    birth = os.stat(sending.queue / f"info/{number % 3}/{number}").st_mtime
    due = os.stat(sending.queue / f"local/{number % 3}/{number}").st_mtime
    assert 99 <= due - birth <= 125
    assert (sending.queue / f"local/{number % 3}/{number}").read_bytes() == b"Tann@here.example\0"


@pytest.mark.contract("send 7.1")
def test_alrm_tries_everything_at_once(sending: Sending) -> None:
    sending.put(b"joe@a.example", b"ann@here.example")
    sending.start().until(lambda: sending.commands["local"])
    sending.report("local", 0, b"Z", b"later")
    sending.until_log("deferral")
    os.kill(sending.pid, signal.SIGALRM)
    sending.until(lambda: len(sending.commands["local"]) == 2)


@pytest.mark.contract("send 5.3", "send 8.1", "send 8.4", "send 8.5", "send 8.6", "send 8.7", "send 8.8")
def test_a_failure_bounces_with_the_whole_message(send_home: Path, sending: Sending) -> None:
    sending.spy()
    sending.start().until_log("status:")
    number = sending.put(b"joe@a.example", b"x@v.example", body=b"Subject: s\n\nbody\n")
    sending.pull()
    sending.until(lambda: sending.commands["local"])
    sending.report("local", 0, b"D", b"no such user\n\nsorry")
    sending.until_log(f"end msg {number}\n")
    assert f"bounce msg {number} qp " in sending.log
    message, _, envelope = (send_home / "spy").read_bytes().rpartition(b"|")
    assert envelope == b"F\0Tjoe@a.example\0\0"
    head, _, rest = message.partition(b"\n\n")
    assert b"\nFrom: MAILER-DAEMON@mx.example.test\nTo: joe@a.example\nSubject: failure notice" in head
    assert rest.startswith(b"Hi. This is the qmail-send program at mx.example.test.\n")
    assert b"\n\n<x@v.example>:\nno such user\n/sorry\n\n--- Below this line is a copy of the message.\n\n" in rest
    assert rest.endswith(b"Return-Path: <joe@a.example>\nSubject: s\n\nbody\n")
    sending.until(lambda: b"foop/%d" % number in sending.requests)
    assert sending.files(number) == set()


@pytest.mark.contract("send 8.2", "send 8.3")
@pytest.mark.parametrize(
    ("sender", "envelope"),
    [(b"", b"F#@[]\0Tpostmaster@mx.example.test\0\0"), (b"o-@h-@[]", b"F\0To-@h\0\0"), (b"#@[]", None)],
    ids=["a bounce bounces to the postmaster", "a VERP sender loses its tail", "a double bounce is dropped"],
)
def test_who_gets_the_bounce(send_home: Path, sending: Sending, sender: bytes, envelope: bytes | None) -> None:
    sending.spy()
    number = sending.put(sender, b"ann@here.example")
    sending.start().until(lambda: sending.commands["local"])
    sending.report("local", 0, b"D", b"no")
    sending.until_log(f"end msg {number}\n")
    if envelope is None:
        assert f"triple bounce: discarding bounce/{number}\n" in sending.log
    else:
        assert (send_home / "spy").read_bytes().endswith(b"|" + envelope)


def test_a_bounce_that_cannot_be_queued_stays(sending: Sending) -> None:
    sending.spy(53)
    number = sending.put(b"joe@a.example", b"ann@here.example")
    sending.start().until(lambda: sending.commands["local"])
    sending.report("local", 0, b"D", b"no")
    sending.until_log("warning: trouble injecting bounce message, will try later\n")
    assert sending.files(number) == {"mess", "info", "bounce"}


@pytest.mark.contract("queue 3.5", "queue 3.4", "queue 4.5", "queue 4.12")
def test_marks_and_bounce_text_until_the_channel_is_done(sending: Sending) -> None:
    sending.spy(53)
    number = sending.put(b"joe@a.example", b"a@here.example", b"b@here.example", b"c@far.example")
    sending.start().until(lambda: len(sending.commands["local"]) == 2 and sending.commands["remote"])
    local = sending.queue / f"local/{number % 3}/{number}"
    sending.report("local", 0, b"D", b"no a")
    sending.until(lambda: local.read_bytes() == b"Da@here.example\0Tb@here.example\0")
    assert sending.files(number) == {"mess", "info", "local", "remote", "bounce"}
    sending.report("local", 1, b"D", b"no b")
    sending.until(lambda: not local.exists())
    assert sending.files(number) == {"mess", "info", "remote", "bounce"}
    bounce = (sending.queue / f"bounce/{number}").read_bytes()
    assert bounce == b"<a@here.example>:\nno a\n\n<b@here.example>:\nno b\n\n"


@pytest.mark.contract("queue 4.2", "queue 4.12")
def test_the_bounce_file_goes_when_it_is_injected(sending: Sending) -> None:
    sending.spy()
    number = sending.put(b"joe@a.example", b"a@here.example", b"b@far.example")
    sending.start().until(lambda: sending.commands["local"] and sending.commands["remote"])
    sending.report("local", 0, b"D", b"no")
    sending.until(lambda: sending.files(number) == {"mess", "info", "remote", "bounce"})
    sending.clean_answer = b"!"
    sending.report("remote", 0, b"K")
    sending.until_log(f"qmail-clean unable to clean up foop/{number}\n")
    assert sending.files(number) == {"mess"}


@pytest.mark.contract("send 6.4")
def test_an_old_message_gets_one_last_try(sending: Sending) -> None:
    sending.spy()
    number = sending.put(b"joe@a.example", b"ann@here.example")
    sending.start().until(lambda: sending.commands["local"])
    sending.report("local", 0, b"Z", b"later")
    sending.until_log("deferral")
    os.utime(sending.queue / f"info/{number % 3}/{number}", (1, 1))
    os.kill(sending.pid, signal.SIGALRM)
    sending.until(lambda: len(sending.commands["local"]) == 2)
    sending.report("local", 0, b"Z", b"later\n")
    sending.until_log("delivery 2: failure: later/I'm_not_going_to_try_again")
    sending.until_log(f"end msg {number}\n")


@pytest.mark.contract("send 5.4", "send 5.5", "send 11.4")
def test_mangled_and_unasked_reports_do_no_harm(sending: Sending) -> None:
    sending.put(b"joe@a.example", b"ann@here.example")
    sending.start().until(lambda: sending.commands["local"])
    sending.report("local", 200, b"K", b"")
    sending.until_log("warning: internal error: delivery report out of range\n")
    sending.report("local", 0, b"?", b"what")
    sending.until_log("delivery 1: report mangled, will defer\n")


def test_a_lost_spawner_ends_the_daemon(sending: Sending) -> None:
    sending.start().until_log("status:")
    sending.close(2)
    assert sending.wait() == 0
    assert "alert: oh no! lost spawn connection! dying...\n" in sending.log


def test_a_lost_qmail_clean_ends_the_daemon(sending: Sending) -> None:
    sending.start().until_log("status:")
    sending.close(6)
    assert sending.wait() == 0
    assert "alert: oh no! lost qmail-clean connection! dying...\n" in sending.log


def test_a_refusal_of_qmail_clean_leaves_the_message_in_todo(sending: Sending) -> None:
    number = sending.put(b"joe@a.example", b"ann@here.example")
    sending.clean_answer = b"!"
    sending.start().until_log(f"warning: qmail-clean unable to clean up todo/{number}\n")
    assert sending.commands["local"] == []
    sending.clean_answer = b"+"
    sending.pull()
    sending.until(lambda: sending.commands["local"])


@pytest.mark.contract("send 2.1", "send 2.2", "send 2.3", "send 2.5")
@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("home", "unable to switch to home directory"),
        ("controls", "unable to read controls"),
        ("queue", "unable to switch to queue directory"),
        ("mutex", "unable to open mutex"),
    ],
)
def test_it_says_why_it_cannot_start(send_home: Path, sending: Sending, broken: str, why: str) -> None:
    if broken == "home":
        sending.environ["QMAIL_HOME"] = str(send_home / "none")
    elif broken == "controls":
        (send_home / "control/locals").unlink()
        (send_home / "control/me").unlink()
    elif broken == "queue":
        (send_home / "queue").rename(send_home / "gone")
    else:
        (send_home / "queue/lock/sendmutex").unlink()
    assert sending.start().wait() == 111
    assert sending.log == f"alert: cannot start: {why}\n"


@pytest.mark.contract("send 2.6")
def test_only_one_runs(send_home: Path, sending: Sending) -> None:
    sending.start().until_log("status:")
    second = Sending(send_home).start()
    assert second.wait() == 111
    assert second.log == "alert: cannot start: qmail-send is already running\n"


@pytest.mark.contract("queue 12.7")
def test_the_mutex_is_held_by_flock(sending: Sending) -> None:
    with (sending.queue / "lock/sendmutex").open("rb+") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        assert sending.start().wait() == 111
        fcntl.flock(mutex, fcntl.LOCK_UN)
        fcntl.lockf(mutex, fcntl.LOCK_EX)  # another kind of lock, which qmail-send does not see
        sending.start().until_log("status:")


@pytest.mark.contract("send 7.2")
def test_hup_rereads_every_control_file_and_keeps_the_old_on_error(send_home: Path, sending: Sending) -> None:
    sending.start().until_log("status:")
    (send_home / "control/locals").write_text("new.example\n")
    (send_home / "control/concurrencylocal").write_text("3\n")
    os.kill(sending.pid, signal.SIGHUP)
    sending.put(b"joe@a.example", b"ann@new.example")
    sending.pull()
    sending.until(lambda: sending.commands["local"])
    sending.until_log("status: local 1/3 ")
    (send_home / "control/locals").unlink()
    (send_home / "control/locals").mkdir()
    os.kill(sending.pid, signal.SIGHUP)
    sending.until_log("alert: unable to reread control/locals\n")


def test_files_without_their_message_are_set_aside(sending: Sending) -> None:
    orphan = sending.put(b"joe@a.example", b"ann@here.example")
    (sending.queue / f"mess/{orphan % 3}/{orphan}").unlink()
    (sending.queue / "info/1/4").write_bytes(b"Fx\0")
    (sending.queue / "local/1/4").write_bytes(b"Tann@here.example\0")
    sending.start().until_log(f"alert: todo/{orphan} has no message, set aside\n")
    sending.until_log("alert: info/1/4 has no message, set aside\n")
    sending.until(lambda: (sending.queue / "info/1/4.aside").exists())
    assert sending.finish() == 0
    assert (sending.queue / "local/1/4.aside").exists()
    assert sending.commands["local"] == []


@pytest.mark.contract("send 6.6", "queue 4.15")
def test_stale_messages_are_cleaned(sending: Sending) -> None:
    path = sending.queue / "mess/2/5"
    path.write_bytes(b"")
    os.utime(path, (time.time() - 129700, time.time()))
    sending.start().until(lambda: b"foop/5" in sending.requests)


def test_many_messages_and_few_slots(send_home: Path, sending: Sending) -> None:
    (send_home / "control/concurrencylocal").write_text("4\n")
    numbers = {sending.put(b"joe@a.example", b"ann@here.example", b"bob@here.example") for _ in range(100)}
    sending.start()
    answered = 0

    def all_done() -> bool:
        nonlocal answered
        for command in sending.commands["local"][answered:]:
            assert command.slot < 4
            sending.report("local", command.slot, b"K")
            answered += 1
        return len(sending.requests) == 200

    sending.until(all_done)
    assert answered == 200
    assert {int(request[5:]) for request in sending.requests} == numbers
    assert sending.finish() == 0


def test_two_of_our_own_go_wide(send_home: Path, sending: Sending) -> None:
    (send_home / "control/concurrencyremote").write_text("300\n")
    sending.start((b"\x78", b"\xff")).until(lambda: sending.commands["remote"])
    assert sending.commands["remote"][0].probe
    os.write(sending.ours[4], b"\xffW400\0")
    sending._parsers["remote"].wide = True
    sending.put(b"joe@a.example", *[b"u%d@far%d.example" % (index, index % 2) for index in range(300)])
    sending.pull()
    sending.until(lambda: len(sending.commands["remote"]) == 301)
    assert {command.slot for command in sending.commands["remote"][1:]} == set(range(300))
    sending.until_log("remote 300/300")
