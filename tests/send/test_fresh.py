"""New messages to one recipient, which are delivered straight from todo/ (send/fresh.py)."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs.sending import Sending, make_queue


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_queue(tmp_path)
    control = tmp_path / "control"
    control.mkdir()
    for name, text in (("me", "mx.example"), ("conf-split", "3"), ("locals", "here.example")):
        (control / name).write_text(text + "\n")
    (control / "conf-users").write_text(f"{os.getuid()}\n" * 8)
    (control / "conf-groups").write_text(f"{os.getgid()}\n" * 2)
    return tmp_path


@pytest.fixture
def sending(home: Path) -> Iterator[Sending]:
    daemon = Sending(home).start()
    daemon.until_log("status:")
    yield daemon
    daemon.kill()


def begin(sending: Sending, *recipients: bytes) -> int:
    """A message that came while qmail-send runs, its deliveries begun."""
    # the first scan takes the ordinary way: wait until one message has gone through it
    first = sending.put(b"a@b", b"first@here.example")
    sending.pull()
    sending.until(lambda: sending.commands["local"])
    sending.report("local", sending.commands["local"][0].slot, b"K", b"")
    sending.until(lambda: b"foop/%d" % first in sending.requests)
    sending.commands["local"].clear()
    sending.requests.clear()  # the next message may have the same number
    number = sending.put(b"joe@a.example", *recipients)
    sending.pull()
    sending.until(lambda: len(sending.commands["local"]) == len(recipients))
    return number


def test_delivered_at_once_it_never_has_other_files(sending: Sending) -> None:
    number = begin(sending, b"ann@here.example")
    assert sending.files(number) == {"mess", "todo", "intd"}
    sending.report("local", 0, b"K", b"did 1+0+0\n")
    sending.until(lambda: b"foop/%d" % number in sending.requests)
    assert sending.requests[-2:] == [b"todo/%d" % number, b"foop/%d" % number]
    assert sending.files(number) == set()
    serial = int(sending.log.rpartition("starting delivery ")[2].partition(":")[0])
    at = sending.log.rindex(f"new msg {number}\n")
    assert sending.log[at:] == (
        f"new msg {number}\n"
        f"info msg {number}: bytes 18 from <joe@a.example> qp 77 uid 1000\n"
        f"starting delivery {serial}: msg {number} to local ann@here.example\n"
        "status: local 1/10 remote 0/20\n"
        f"delivery {serial}: success: did_1+0+0/\n"
        "status: local 0/10 remote 0/20\n"
        f"end msg {number}\n"
    )


def test_two_recipients_have_marks_and_so_files(sending: Sending) -> None:
    number = begin(sending, b"ann@here.example", b"bob@here.example")
    assert sending.files(number) == {"mess", "info", "local"}


def test_deferred_it_gets_its_files_with_the_time_it_was_first_seen(sending: Sending) -> None:
    number = begin(sending, b"ann@here.example")
    before = os.stat(sending.queue / f"todo/{number}").st_mtime
    sending.report("local", 0, b"Z", b"later")
    sending.until(lambda: sending.files(number) == {"mess", "info", "local"})
    assert (sending.queue / f"local/{number % 3}/{number}").read_bytes() == b"Tann@here.example\0"
    assert (sending.queue / f"info/{number % 3}/{number}").read_bytes() == b"Fjoe@a.example\0"
    sending.until_log("deferral: later\n")
    assert sending.finish() == 0
    info = os.stat(sending.queue / f"info/{number % 3}/{number}").st_mtime
    assert before - 1 <= info <= before + 20
    due = os.stat(sending.queue / f"local/{number % 3}/{number}").st_mtime
    assert due >= int(info) + 100  # (0 + 10) squared


def test_failed_it_bounces_from_a_durable_state(sending: Sending) -> None:
    number = begin(sending, b"ann@here.example")
    sending.report("local", 0, b"D", b"no such user")
    sending.until(lambda: sending.files(number) == {"mess", "info", "bounce"})
    assert b"no such user" in (sending.queue / f"bounce/{number}").read_bytes()
    assert sending.requests.count(b"todo/%d" % number) == 1


def test_killed_before_its_report_it_is_delivered_anew(sending: Sending, home: Path) -> None:
    number = begin(sending, b"ann@here.example")
    sending.kill()
    assert sending.files(number) == {"mess", "todo", "intd"}
    again = Sending(home).start()
    try:
        again.until(lambda: again.commands["local"])
        assert again.commands["local"][0].recipient == b"ann@here.example"
    finally:
        again.kill()


def test_killed_after_its_report_it_is_never_half_gone(sending: Sending) -> None:
    number = begin(sending, b"ann@here.example")
    sending.clean_answer = b"!"  # qmail-clean cannot remove todo/N: then the message itself must stay as well
    sending.report("local", 0, b"K", b"")
    sending.until_log(f"warning: qmail-clean unable to clean up todo/{number}\n")
    assert b"foop/%d" % number not in sending.requests
    sending.pull()
    sending.put(b"a@b", b"next@here.example")
    sending.pull()
    sending.until(lambda: len(sending.commands["local"]) == 2)
    assert [command.recipient for command in sending.commands["local"]] == [b"ann@here.example", b"next@here.example"]


def test_a_delivery_that_ends_after_term_still_leaves_the_queue_right(sending: Sending) -> None:
    number = begin(sending, b"ann@here.example")
    os.kill(sending.pid, signal.SIGTERM)
    sending.report("local", 0, b"Z", b"later")
    assert sending.wait() == 0
    assert sending.files(number) == {"mess", "info", "local"}


def test_without_room_for_its_files_it_stays_in_todo(sending: Sending) -> None:
    number = begin(sending, b"ann@here.example")
    full = sending.queue / f"info/{number % 3}"
    full.rename(full.with_name("away"))
    sending.report("local", 0, b"Z", b"later")
    sending.until_log(f"warning: unable to create info/{number % 3}/{number}\n")
    os.kill(sending.pid, signal.SIGTERM)
    assert sending.wait() == 0
    assert sending.files(number) == {"mess", "todo", "intd"}


def test_more_than_a_thousand_wait_with_files(sending: Sending) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    numbers = [begin(sending, b"first@here.example")]
    numbers += [sending.put(b"a@b", b"n%d@here.example" % n) for n in range(1040)]
    sending.pull()
    sending.until(lambda: sending.log.count("info msg ") == len(numbers) + 1)
    sending.until(lambda: sum(sending.files(number) == {"mess", "info", "local"} for number in numbers) >= 30)
    assert sum("todo" in sending.files(number) for number in numbers) >= 1000
