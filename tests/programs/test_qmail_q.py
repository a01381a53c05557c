"""qmail-q as a process, against a real qmail-send and on a queue that nobody serves."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyqmail.send.control_socket import connect
from tests.programs.sending import BIN, DEADLINE_S, Sending


class Asking:
    """A qmail-q beside a qmail-send whose pipes must be served meanwhile."""

    def __init__(self, sending: Sending) -> None:
        self.sending = sending

    def __call__(self, *words: str, code: int = 0) -> str:
        """What qmail-q prints, descriptor 2 after descriptor 1."""
        process = subprocess.Popen(
            [sys.executable, "-ISXutf8", str(BIN / "qmail-q"), *words],
            env=self.sending.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if self.sending.pid:
            self.sending.until(lambda: process.poll() is not None)
        text = process.communicate(timeout=DEADLINE_S)[0].decode()
        assert process.returncode == code, text
        return text

    def json(self, *words: str) -> list[dict[str, object]]:
        """The objects that ``qmail-q --json`` prints."""
        return [json.loads(line) for line in self("--json", *words).splitlines()]


@pytest.fixture
def q(sending: Sending) -> Asking:
    for name, number in (("users", os.getuid()), ("groups", os.getgid())):  # nobody changes uid, not even root
        file = sending.home / f"control/conf-{name}"
        file.write_text(f"{number}\n" * len(file.read_text().splitlines()))
    return Asking(sending)


def deferred(sending: Sending, *recipients: bytes, reply: bytes = b"Connected but got 451 later") -> int:
    """A message all of whose remote recipients were deferred once."""
    number = sending.put(b"joe@a.example", *recipients)
    seen = len(sending.commands["remote"])
    sending.start() if not sending.pid else sending.pull()
    sending.until(lambda: len(sending.commands["remote"]) == seen + len(recipients))
    for command in sending.commands["remote"][seen:]:
        sending.report("remote", command.slot, b"Z", reply)
    part = sending.queue / f"remote/{number % 3}/{number}"
    note = sending.queue / f"pyqmail/remote/{number % 3}/{number}"
    sending.until(lambda: note.exists() and part.exists())
    return number


def left(sending: Sending, number: int) -> list[str]:
    parts = ("mess", "info", "local", "remote", "pyqmail/local", "pyqmail/remote")
    found = [part for part in parts if (sending.queue / f"{part}/{number % 3}/{number}").exists()]
    return found + [part for part in ("todo", "intd", "bounce") if (sending.queue / part / str(number)).exists()]


def test_list_and_show_tell_next_attempt_attempts_and_last_reply(sending: Sending, q: Asking) -> None:
    number = deferred(sending, b"ann@far.example", b"b\xe9b@far.example")
    birth = int((sending.queue / f"info/{number % 3}/{number}").stat().st_mtime)
    (shown,) = q.json("show", str(number))
    channel = shown["channels"]["remote"]  # type: ignore[index]
    assert (shown["id"], shown["state"], shown["sender"], shown["bytes"]) == (number, "waiting", "joe@a.example", 18)
    assert channel["attempts"] == 1
    assert 400 <= channel["next_attempt"] - birth <= 500
    addresses = [each["address"].encode("utf-8", "surrogateescape") for each in channel["recipients"]]
    assert addresses == [b"ann@far.example", b"b\xe9b@far.example"]
    assert {each["last_reply"] for each in channel["recipients"]} == {"Connected_but_got_451_later"}
    (listed,) = q.json("list")
    assert listed["channels"]["remote"]["last_reply"] == "Connected_but_got_451_later"  # type: ignore[index]
    text = q("list")
    assert f"#{number}  waiting  18 bytes" in text
    assert "2 recipients  attempts 1  next 2" in text
    assert q("list", "elsewhere.example") == ""
    assert "b_b@far.example" in q("show", str(number))


def test_retry_of_an_id_tries_it_now_and_is_logged(sending: Sending, q: Asking) -> None:
    number = deferred(sending, b"ann@far.example")
    other = deferred(sending, b"bob@far.example")
    assert q("retry", str(number)) == f"retry {number}\n"
    sending.until(lambda: len(sending.commands["remote"]) == 3)
    assert sending.commands["remote"][2].recipient == b"ann@far.example"
    assert f"control: uid {os.getuid()}: retry msg {number}\n" in sending.log
    sending.report("remote", 0, b"Z", b"no luck")
    sending.until(lambda: "deferral: no_luck" in sending.log)
    (shown,) = q.json("show", f"#{number}")
    assert shown["channels"]["remote"]["attempts"] == 2  # type: ignore[index]
    assert shown["channels"]["remote"]["last_reply"] == "no_luck"  # type: ignore[index]
    assert left(sending, other) == ["mess", "info", "remote", "pyqmail/remote"]


def test_retry_of_a_domain_and_of_all(sending: Sending, q: Asking) -> None:
    deferred(sending, b"ann@far.example")
    deferred(sending, b"bob@Near.example")
    assert q("retry", "near.EXAMPLE") == "retry near.example: 1 messages\n"
    sending.until(lambda: len(sending.commands["remote"]) == 3)
    assert sending.commands["remote"][2].recipient == b"bob@Near.example"
    assert "retry domain near.example: 1 messages\n" in sending.log
    sending.report("remote", 0, b"Z")
    sending.until(lambda: sending.log.count("deferral") == 3)
    q("retry", "all")
    sending.until(lambda: len(sending.commands["remote"]) == 5)
    assert f"control: uid {os.getuid()}: retry all\n" in sending.log


def test_a_held_message_waits_through_a_restart_until_it_is_released(sending: Sending, q: Asking) -> None:
    number = deferred(sending, b"ann@far.example")
    assert q("hold", str(number)) == f"hold {number}\n"
    assert "is held" in q("retry", str(number), code=1)
    os.kill(sending.pid, signal.SIGALRM)  # even what would make everything due
    assert q.json("show", str(number))[0]["state"] == "held"
    assert sending.finish() == 0
    log, sending.log = sending.log, ""
    sending.start()
    sending.until_log("status: local 0/10")
    os.kill(sending.pid, signal.SIGALRM)
    assert q.json("show", str(number))[0]["state"] == "held"
    assert len(sending.commands["remote"]) == 1
    q("release", str(number))
    sending.until(lambda: len(sending.commands["remote"]) == 2)
    assert "is not held" in q("release", str(number), code=1)
    assert f"hold msg {number}\n" in log
    assert f"release msg {number}\n" in sending.log


def test_a_held_domain_lets_the_other_recipients_go(sending: Sending, q: Asking) -> None:
    sending.start()
    sending.until_log("status:")
    q("hold", "Far.example")
    fresh = sending.put(b"joe@a.example", b"zoe@far.example")
    number = sending.put(b"joe@a.example", b"ann@far.example", b"bob@near.example")
    sending.pull()
    sending.until(lambda: sending.commands["remote"])
    sending.report("remote", 0, b"K")
    sending.until_log("success")
    assert q("list").startswith("held domain far.example\n")
    assert [command.recipient for command in sending.commands["remote"]] == [b"bob@near.example"]
    assert {left(sending, each)[2] for each in (fresh, number)} == {"remote"}
    q("release", "far.example")
    sending.until(lambda: len(sending.commands["remote"]) == 3)
    assert {command.recipient for command in sending.commands["remote"][1:]} == {b"ann@far.example", b"zoe@far.example"}


def test_delete_leaves_nothing_and_tells_nobody(sending: Sending, q: Asking) -> None:
    number = deferred(sending, b"ann@far.example")
    assert q("delete", str(number)) == f"delete {number}\n"
    sending.until(lambda: b"foop/%d" % number in sending.requests)
    assert left(sending, number) == []
    assert f"control: uid {os.getuid()}: delete msg {number}\n" in sending.log
    assert f"end msg {number}\n" in sending.log
    assert "bounce" not in sending.log
    assert q("show", str(number), code=1) == f"qmail-q: no message {number}\n"


def test_delete_waits_for_a_running_delivery_and_starts_no_other(send_home: Path, sending: Sending, q: Asking) -> None:
    (send_home / "control/concurrencyremote").write_text("1\n")
    number = sending.put(b"joe@a.example", b"ann@far.example", b"bob@far.example")
    sending.start().until(lambda: sending.commands["remote"])
    assert q("delete", str(number)) == f"delete {number}: as soon as its running deliveries have reported\n"
    assert left(sending, number) == ["mess", "info", "remote"]
    sending.report("remote", 0, b"D", b"no such user")
    sending.until(lambda: b"foop/%d" % number in sending.requests)
    assert len(sending.commands["remote"]) == 1
    assert left(sending, number) == []


@pytest.mark.parametrize("verb", ["delete", "hold"])
def test_an_order_during_the_first_delivery_waits_for_its_end(sending: Sending, q: Asking, verb: str) -> None:
    first = sending.put(b"a@b", b"first@here.example")  # what the first scan finds gets its files at once
    sending.start().until(lambda: sending.commands["local"])
    sending.report("local", 0, b"K")
    sending.until(lambda: b"foop/%d" % first in sending.requests)
    sending.requests.clear()  # its number may be used again
    number = sending.put(b"joe@a.example", b"ann@far.example")
    late = sending.put(b"joe@a.example", b"bob@far.example")
    sending.pull()
    sending.until(lambda: len(sending.commands["remote"]) == 2)
    for each in (number, late):
        assert q(verb, str(each)) == f"{verb} {each}: as soon as its running deliveries have reported\n"
    slots = {command.message: command.slot for command in sending.commands["remote"]}
    sending.report("remote", slots[b"%d/%d" % (number % 3, number)], b"Z", b"later")
    sending.report("remote", slots[b"%d/%d" % (late % 3, late)], b"K", b"there")
    sending.until_log(f"control: uid {os.getuid()}: {verb} msg {number}\n")
    sending.until_log(f"control: uid {os.getuid()}: {verb} msg {late}: too late, it is delivered\n")
    if verb == "delete":
        sending.until(lambda: b"foop/%d" % number in sending.requests)
        assert left(sending, number) == []
    else:
        assert q.json("show", str(number))[0]["state"] == "held"
    assert len(sending.commands["remote"]) == 2


def test_an_interrupted_delete_is_finished_by_the_next_run(send_home: Path, sending: Sending) -> None:
    number = deferred(sending, b"ann@far.example", b"bob@far.example")
    sending.kill()
    birth = int((sending.queue / f"info/{number % 3}/{number}").stat().st_mtime)
    (send_home / "queue/pyqmail/orders").write_text(f"delete {number} {birth}\n")
    sending.log = ""
    sending.start().until(lambda: b"foop/%d" % number in sending.requests)
    sending.until(lambda: (send_home / "queue/pyqmail/orders").read_text() == "")
    assert left(sending, number) == []
    assert len(sending.commands["remote"]) == 2


def test_an_order_for_an_older_message_of_the_same_number_falls_on_nobody(send_home: Path, sending: Sending) -> None:
    number = deferred(sending, b"ann@far.example")
    sending.kill()
    (send_home / "queue/pyqmail/orders").write_text(f"delete {number} 12345\nhold {number} 12345\n")
    sending.start().until(lambda: len(sending.commands["remote"]) == 2)
    assert left(sending, number) == ["mess", "info", "remote", "pyqmail/remote"]


def test_bounce_returns_the_rest_with_the_last_reply(send_home: Path, sending: Sending, q: Asking) -> None:
    sending.spy()
    number = deferred(sending, b"ann@far.example")
    q("bounce", str(number))
    sending.until_log(f"end msg {number}\n")
    bounce = (send_home / "spy").read_bytes()
    assert b"<ann@far.example>:\n" in bounce
    assert b"Connected_but_got_451_later" in bounce
    assert bounce.endswith(b"|F\0Tjoe@a.example\0\0")
    assert f"control: uid {os.getuid()}: bounce msg {number}\n" in sending.log
    sending.until(lambda: not left(sending, number))


def test_bounce_spares_who_got_it_and_keeps_earlier_failures(send_home: Path, sending: Sending, q: Asking) -> None:
    sending.spy()
    number = sending.put(b"joe@a.example", b"ann@here.example", b"x@v.example", b"bob@far.example", b"zoe@far.example")
    sending.start().until(lambda: len(sending.commands["local"]) == len(sending.commands["remote"]) == 2)
    sending.report("remote", 0, b"D", b"bob is unknown")
    sending.report("remote", 1, b"Z", b"busy")
    sending.until(lambda: (sending.queue / f"pyqmail/remote/{number % 3}/{number}").exists())
    q("bounce", str(number))
    os.kill(sending.pid, signal.SIGALRM)  # what is ordered to end is not tried again
    slots = {command.recipient: command.slot for command in sending.commands["local"]}
    sending.report("local", slots[b"ann@here.example"], b"K")
    sending.report("local", slots[b"alias-v-x@v.example"], b"Z", b"full")
    sending.until_log(f"end msg {number}\n")
    bounce = (send_home / "spy").read_bytes().partition(b"--- Below")[0]
    for line in (b"<bob@far.example>:\nbob is unknown\n", b"<zoe@far.example>:\n", b"<x@v.example>:\n", b": busy\n"):
        assert bounce.count(line) == 1, line
    assert b": full\n" in bounce
    assert b"ann@" not in bounce
    assert len(sending.commands["local"]) == len(sending.commands["remote"]) == 2


@pytest.mark.parametrize("kind", ["delete", "bounce"])
@pytest.mark.parametrize("moment", ["at once", "when it is on disk", "when it is confirmed"])
def test_killed_at_any_moment_an_order_is_done_whole_or_not_at_all(
    send_home: Path, sending: Sending, kind: str, moment: str
) -> None:
    sending.spy()
    number = deferred(sending, b"ann@far.example", b"bob@far.example")
    orders, channel = send_home / "queue/pyqmail/orders", sending.queue / f"remote/{number % 3}/{number}"
    words = [sys.executable, "-ISXutf8", str(BIN / "qmail-q"), kind, str(number)]
    process = subprocess.Popen(words, env=sending.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if moment == "when it is on disk":
        sending.until(lambda: process.poll() is not None or (orders.exists() and orders.stat().st_size > 0))
    elif moment == "when it is confirmed":
        sending.until(lambda: process.poll() is not None)
    sending.kill()
    process.wait(DEADLINE_S)  # qmail-q may have done it by itself meanwhile: nobody served the queue
    undone = channel.exists() and not (orders.exists() and orders.read_bytes())
    sending.commands["remote"].clear()
    sending.log = ""
    sending.start()
    if undone:
        sending.until(lambda: len(sending.commands["remote"]) == 2)
        assert (send_home / "spy").exists() is False
        return
    sending.until(lambda: not left(sending, number) or left(sending, number) == ["mess"])
    sending.until(lambda: orders.read_bytes() == b"")
    assert sending.commands["remote"] == []
    assert (send_home / "spy").exists() == (kind == "bounce")


@pytest.mark.parametrize("verb", ["show", "retry", "hold", "release", "delete", "bounce"])
def test_an_unknown_id_is_said_so_and_exits_1(sending: Sending, q: Asking, verb: str) -> None:
    sending.start()
    sending.until_log("status:")
    assert q(verb, "999999999", code=1) == "qmail-q: no message 999999999\n"


@pytest.mark.parametrize(
    "words",
    [[], ["list", "1"], ["delete"], ["delete", "far.example"], ["show", "x@y"], ["frob", "1"], ["hold", "all/x"]],
    ids=str,
)
def test_a_wrong_command_line_is_misuse(q: Asking, words: list[str]) -> None:
    assert q(*words, code=100).startswith("usage: ")


def test_a_stopped_queue_is_served_from_its_files(sending: Sending, q: Asking) -> None:
    sending.spy()
    numbers = [deferred(sending, b"x@far.example") for _ in range(4)]
    held, deleted, bounced, retried = numbers
    assert sending.finish() == 0
    new = sending.put(b"joe@a.example", b"new@far.example")
    states = {entry["id"]: entry["state"] for entry in q.json("list")}
    assert states == dict.fromkeys(numbers, "waiting") | {new: "new"}
    q("hold", str(held))
    q("delete", str(deleted), str(new))
    q("bounce", str(bounced))
    q("retry", str(retried))
    q("delete", "999999999", code=1)
    assert left(sending, deleted) == left(sending, new) == []
    assert left(sending, bounced) == ["mess", "info", "bounce"]
    assert q.json("show", str(held))[0]["state"] == "held"
    sending.log = ""
    sending.start().until_log(f"end msg {bounced}\n")
    sending.until(lambda: len(sending.commands["remote"]) == 5)
    for verb, number in (("hold", held), ("delete", deleted), ("delete", new), ("bounce", bounced), ("retry", retried)):
        assert f"control: uid {os.getuid()}: while stopped: {verb} msg {number}\n" in sending.log
    assert not (sending.queue / "pyqmail/actions").exists()


def test_without_its_directory_nothing_is_held_and_mail_flows(send_home: Path, sending: Sending, q: Asking) -> None:
    shutil.rmtree(send_home / "queue/pyqmail")
    (send_home / "queue/pyqmail").write_text("")  # in the way, so that not even root can make it
    number = sending.put(b"joe@a.example", b"ann@far.example")
    sending.start().until(lambda: sending.commands["remote"])
    sending.report("remote", 0, b"Z")
    sending.until_log("deferral")
    assert "warning: queue/pyqmail is missing or not writable: run qmail-setup; nothing can be held\n" in sending.log
    assert "run qmail-setup" in q("hold", str(number), code=111)
    q("retry", str(number))
    sending.until(lambda: len(sending.commands["remote"]) == 2)


def test_a_foreign_qmail_send_is_not_worked_around(send_home: Path, sending: Sending, q: Asking) -> None:
    (send_home / "run/send").rmdir()
    sending.start()
    sending.until_log("warning: unable to listen on run/send/control")
    assert "does not listen" in q("retry", "all", code=111)


def test_nobody_on_the_socket_can_make_mail_wait(send_home: Path, sending: Sending, q: Asking) -> None:
    sending.start()
    sending.until_log("status:")
    path = str(send_home / "run/send/control")
    callers = [connect(path) for _ in range(7)]
    for caller in callers[:5]:  # these ask much, again and again, and never read an answer
        caller.setblocking(False)
        try:
            while True:
                caller.send(b'{"do":"state"}\n' * 1000)
        except BlockingIOError:
            pass
    callers[5].sendall(b'{"do":"ret')  # this one never ends its line
    callers[6].sendall(b'["nonsense"]\n[[[[\n{"do":"hold","ids":[-1]}\n{"do":"retry","ids":[1e9]}\n')
    before = time.monotonic()
    sending.put(b"joe@a.example", b"ann@far.example")
    sending.pull()
    sending.until(lambda: sending.commands["remote"])
    assert time.monotonic() - before < 10
    q("list")  # the eighth caller still gets its answer
    callers[6].settimeout(DEADLINE_S)
    answers = callers[6].makefile("rb")
    assert [b"bad request" in answers.readline() for _ in range(4)] == [True] * 4
    too_long = connect(path)
    too_long.settimeout(DEADLINE_S)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        too_long.sendall(b" " * 10_000_000)
    for caller in callers:
        caller.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_is_not_served(send_home: Path, sending: Sending) -> None:
    sending.start()
    sending.until_log("status:")
    (send_home / "run/send").chmod(0o777)
    (send_home / "run/send/control").chmod(0o777)
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(send_home / "run/send")
            os.setgroups([])
            os.setresuid(12345, 12345, 12345)
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(DEADLINE_S)
            sock.connect("control")
            sock.sendall(b'{"do":"retry","ids":null}\n')
            os._exit(0 if sock.recv(100) == b"" else 1)
        except (ConnectionResetError, BrokenPipeError):
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "retry all" not in sending.log


def samples(path: Path) -> dict[str, float]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_metrics_file_counts_what_happened(send_home: Path, sending: Sending, q: Asking) -> None:
    path = send_home / "metrics.prom"
    (send_home / "control/metricsfile").write_text("metrics.prom\n")
    deferred(sending, b"ann@far.example", b"bob@far.example")
    sending.put(b"joe@a.example", b"ann@here.example")
    sending.pull()
    sending.until(lambda: sending.commands["local"])
    sending.report("local", 0, b"K", b"did 1+0+0\n")
    sending.until_log("end msg")
    first = samples(path)
    assert first["pyqmail_messages_accepted_total"] == 0  # written when it started
    assert sending.finish() == 0
    last = samples(path)
    assert last["pyqmail_messages_accepted_total"] == 2
    assert last["pyqmail_messages_ended_total"] == 1
    assert last['pyqmail_deliveries_started_total{channel="remote"}'] == 2
    assert last['pyqmail_deliveries_total{channel="remote",result="deferral"}'] == 2
    assert last['pyqmail_deliveries_total{channel="local",result="success"}'] == 1
    assert last['pyqmail_delivery_delay_seconds_bucket{channel="local",le="+Inf"}'] == 1
    assert last["pyqmail_queue_messages"] == 1
    assert last['pyqmail_queue_waiting{channel="remote"}'] == 1
    assert last['pyqmail_delivery_limit{channel="local"}'] == 10
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(send_home.glob("metrics.prom.*")) == []


def test_who_may_order_may_ask_for_the_metrics(sending: Sending, q: Asking) -> None:
    deferred(sending, b"ann@far.example")
    with connect(str(sending.home / "run/send/control")) as line:
        line.sendall(b'{"do":"metrics"}\n{"do":"state"}\n')
        line.setblocking(False)
        heard = bytearray()

        def both() -> bool:
            try:
                heard.extend(line.recv(65536))
            except BlockingIOError:
                pass
            return heard.count(b"\n") >= 2

        sending.until(both)
    text = json.loads(heard.split(b"\n")[0])["metrics"]
    assert 'pyqmail_deliveries_total{channel="remote",result="deferral"} 1\n' in text


def test_the_metrics_file_can_be_asked_for_by_hup_and_its_trouble_is_logged_once(
    send_home: Path, sending: Sending
) -> None:
    sending.start()
    sending.until_log("status:")
    (send_home / "control/metricsfile").write_text("queue\n")
    os.kill(sending.pid, signal.SIGHUP)
    sending.until_log("warning: unable to write the file of control/metricsfile: is a directory\n")
    assert list(send_home.glob("queue.*")) == []
    (send_home / "control/metricsfile").write_text("m.prom\n")
    os.kill(sending.pid, signal.SIGHUP)
    sending.until((send_home / "m.prom").exists)


def test_the_log_of_qmail_send_is_json_where_it_is_asked_for(send_home: Path, sending: Sending) -> None:
    (send_home / "control/logformat").write_text("json\n")
    sending.put(b"joe@a.example", b"ann@here.example")
    sending.start()
    sending.until(lambda: sending.commands["local"])
    sending.report("local", 0, b"K", b"did 1+0+0\n")
    sending.until_log('"event":"end"')
    assert sending.finish() == 0
    seen = [json.loads(line) for line in sending.log.splitlines()]
    assert {"new", "info", "start", "delivery", "status", "end", "exiting"} <= {each["event"] for each in seen}
    info, ended = (next(each for each in seen if each["event"] == kind) for kind in ("info", "delivery"))
    assert (info["sender"], ended["result"], ended["text"]) == ("joe@a.example", "success", "did 1+0+0\n")
    assert (ended["msg"], ended["qp"], ended["recipient"]) == (info["msg"], info["qp"], "ann@here.example")


def test_a_form_of_the_log_that_there_is_not_is_said_and_classic(send_home: Path, sending: Sending) -> None:
    (send_home / "control/logformat").write_text("xml\n")
    sending.start()
    sending.until_log("warning: control/logformat: not one of classic, json, both; it is ignored\n")
    sending.until_log("status: local 0/10")


def run(home: Path, name: str) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-ISXutf8", str(BIN / name)]
    return subprocess.run(words, env={"QMAIL_HOME": str(home)}, capture_output=True, check=False)


def test_qmail_qread_prints_as_the_original(send_home: Path, sending: Sending) -> None:
    number = deferred(sending, b"ann@far.example", b"b\xe9b@far.example")
    sending.kill()
    queue = sending.queue
    os.utime(queue / f"info/{number % 3}/{number}", (811975613, 811975613))
    (queue / f"remote/{number % 3}/{number}").write_bytes(b"Dann@far.example\0Tb\xe9b@far.example\0Xodd\0Tcut")
    (queue / f"bounce/{number}").write_bytes(b"<x>:\n\n")
    (queue / "info/0/999999").write_bytes(b"Fgone@a.example\0")
    result = run(send_home, "qmail-qread")
    expected = (
        f"24 Sep 1995 20:46:53 GMT  #{number}  18  <joe@a.example>  bouncing\n"
        "  done\tremote\tann@far.example\n\tremote\tb_b@far.example\n"
    )
    lines = result.stdout.decode()
    assert expected in lines
    assert lines.replace(expected, "") == "warning: trouble with #999999: no such file or directory\n"
    assert (result.returncode, result.stderr) == (0, b"")


def test_qmail_qstat_counts(send_home: Path, sending: Sending) -> None:
    for _ in range(3):
        sending.put(b"joe@a.example", b"ann@here.example")
    result = run(send_home, "qmail-qstat")
    assert result.stdout == b"messages in queue: 3\nmessages in queue but not yet preprocessed: 3\n"
    assert result.returncode == 0


@pytest.mark.parametrize("name", ["qmail-qread", "qmail-qstat"])
def test_a_queue_that_is_not_there_is_111(tmp_path: Path, name: str) -> None:
    assert run(tmp_path, name).returncode == 111
