"""A queue that another qmail left, in any state, is taken over: each pending recipient once, and nobody else."""

import os
import random
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyqmail.formats.facts import Facts, format_facts
from pyqmail.formats.netstring import format_netstring, format_netstrings
from tests.adoption.queues import (
    File,
    Outcome,
    Queue,
    check,
    format_queue,
    parse_queue,
    read_directory,
    take_over,
    write_directory,
)
from tests.adoption.scenarios import CONTROLS, DATA, LOCAL, REMOTE, SCENARIOS, SPLIT, Host, Run, play
from tests.programs.sending import Sending

STALE = -130_000.0
YOUNG = -129_000.0
NOTQMAIL = os.environ.get("NOTQMAIL_HOME")


def make_home(home: Path, queue: Queue, split: int) -> Path:
    """A single-user tree in ``home`` with ``queue`` in it."""
    uid, gid = os.geteuid() or 65534, os.getegid() or 65534
    (home / "control").mkdir()
    (home / "run/send").mkdir(parents=True)
    for name, text in {**CONTROLS, "conf-users": f"{uid}\n" * 8, "conf-groups": f"{gid}\n" * 2}.items():
        (home / "control" / name).write_text(text)
    write_directory(home / "queue", queue.files, split)
    return home


def adopt(home: Path, queue: Queue, split: int) -> Outcome:
    """Have our qmail-send take ``queue`` over in ``home``, and check what it did."""
    sending = Sending(make_home(home, queue, split), split=split)
    try:
        outcome = take_over(sending, home)
    finally:
        sending.kill()
    check(queue.expected, outcome)
    return outcome


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_recorded_queue_of_notqmail_is_taken_over(tmp_path: Path, name: str) -> None:
    queue = parse_queue((DATA / f"{name}.txt").read_text())
    assert queue.files
    for file in queue.files.values():
        file.mtime = min(file.mtime, 0)  # what was deferred has become due
    adopt(tmp_path, queue, SPLIT)


def test_what_notqmail_deferred_waits_until_it_is_due(tmp_path: Path) -> None:
    """The times that it saved when it was stopped are kept: only SIGALRM makes the rest due."""
    queue = parse_queue((DATA / "deferred.txt").read_text())
    waiting = {path for path, file in queue.files.items() if file.mtime > 50}
    assert {path.split("/")[0] for path in waiting} == {"local", "remote"}
    sending = Sending(make_home(tmp_path, queue, SPLIT), split=SPLIT)
    try:
        sending.start().until_log("status:")
        new = sending.put(b"joe@a.example", b"ann@here.example")
        sending.pull()
        sending.until(lambda: sending.commands["local"])
        assert [command.message for command in sending.commands["local"]] == [b"%d/%d" % (new % SPLIT, new)]
        os.kill(sending.pid, signal.SIGALRM)
        count = sum(queue.expected.pending.values())
        sending.until(lambda: sum(map(len, sending.commands.values())) == 1 + count)
    finally:
        sending.kill()


def test_stale_leftovers_go_and_young_ones_stay(tmp_path: Path) -> None:
    queue = parse_queue((DATA / "being-written.txt").read_text())
    names = {path.rpartition("/")[2] for path in queue.files if path.startswith("mess/")}
    old = sorted(names)[0]
    for path, file in queue.files.items():
        file.atime = STALE if path.endswith("/" + old) else YOUNG
    queue.files["pid/4711.1.1"] = File(b"x", STALE, STALE)
    queue.files["pid/4711.1.2"] = File(b"x", YOUNG, YOUNG)
    adopt(tmp_path, queue, SPLIT)
    left = {path.name for path in (tmp_path / "queue").rglob("*") if path.is_file()} - {"sendmutex", "tcpto"}
    assert left == (names - {old}) | {"4711.1.2"}


# random states

ADDRESS = st.sampled_from([b"a@here.example", b"b@here.example", b"Mixed.Case@Here.Example", b"", b"c d@here.example"])
FAR = st.sampled_from([b"a@far.example", b"b@other.example", b"x@[10.0.0.1]", b"a@far.example"])
SENDER = st.sampled_from([b"joe@a.example", b"", b"#@[]", b"list-@a.example-@[]"])


@st.composite
def one_message(draw: st.DrawFn, number: int) -> Queue:
    """One message in a state, and what is to become of it."""
    queue = Queue()
    split = f"{number % 3}/{number}"
    sender = draw(SENDER)
    state = draw(st.sampled_from(["S2", "S3", "S4", "S4 again", "S5", "S5", "S5", "finished", "orphan"]))
    local = draw(st.lists(ADDRESS, max_size=4))
    remote = draw(st.lists(FAR, max_size=4))
    queue.files[f"mess/{split}"] = File(b"Subject: x\n\nbody of %d\n" % number)
    todo = b"u7\0p8\0F" + sender + b"\0" + b"".join(b"T" + name + b"\0" for name in (*local, *remote))
    match state:
        case "S2":
            queue.files[f"mess/{split}"].atime = draw(st.sampled_from([YOUNG, STALE]))
        case "S3":
            queue.files[f"intd/{number}"] = File(todo[: draw(st.integers(0, len(todo) - 1))], YOUNG)
        case "S4" | "S4 again":
            queue.files[f"todo/{number}"] = File(todo)
            if draw(st.booleans()):
                queue.files[f"intd/{number}"] = File(todo)
            if state == "S4 again":  # stopped while it was being preprocessed, at any byte
                for part in ("info", "local", "remote"):
                    if draw(st.booleans()):
                        junk = b"Told@here.example\0Told@far.example\0"
                        queue.files[f"{part}/{split}"] = File(junk[: draw(st.integers(0, len(junk)))])
            for name in local:
                address = name if b"@" in name else name + b"@mx.example.test"
                channel = "local" if b"@" in name else "remote"
                queue.expected.pending[number, channel, address] += 1
            for name in remote:
                queue.expected.pending[number, "remote", name] += 1
        case "S5" | "finished":
            _preprocessed(draw, queue, number, sender, local, remote, finished=state == "finished")
        case "orphan":
            queue.files[f"info/{split}"] = File(b"F" + sender + b"\0")
            queue.files[f"local/{split}"] = File(b"Ta@here.example\0")
            del queue.files[f"mess/{split}"]
    return queue


def _preprocessed(
    draw: st.DrawFn,
    queue: Queue,
    number: int,
    sender: bytes,
    local: list[bytes],
    remote: list[bytes],
    *,
    finished: bool,
) -> None:
    """The files of S5, with any marks, and the bounce paragraphs of some that are done."""
    split = f"{number % 3}/{number}"
    queue.files[f"info/{split}"] = File(b"F" + sender + b"\0", mtime=-draw(st.integers(0, 500_000)))
    bounce = b""
    for channel, names in (("local", local), ("remote", remote)):
        if finished or not names:
            continue
        data = b""
        for name in names:
            name = name or b"@here.example"
            mark = draw(st.sampled_from([b"T", b"D", b"F"]))
            data += (b"T" if mark == b"T" else b"D") + name + b"\0"
            if mark == b"T":
                queue.expected.pending[number, channel, name] += 1
            if mark == b"F":
                bounce += b"<" + name + b">:\nno\n\n"
                queue.expected.failed[number, sender, name] += 1
        queue.files[f"{channel}/{split}"] = File(data, mtime=-draw(st.integers(0, 100_000)))
    if finished and draw(st.booleans()):
        bounce = b"<gone@here.example>:\nno\n\n"
        queue.expected.failed[number, sender, b"gone@here.example"] += 1
    if bounce:
        queue.files[f"bounce/{number}"] = File(bounce)


@st.composite
def queues(draw: st.DrawFn) -> Queue:
    """A whole queue of such messages."""
    whole = Queue()
    for number in draw(st.lists(st.integers(10**12, 10**12 + 99), min_size=5, max_size=25, unique=True)):
        queue = draw(one_message(number))
        whole.files.update(queue.files)
        whole.expected.pending.update(queue.expected.pending)
        whole.expected.failed.update(queue.expected.failed)
    return whole


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(queues())
def test_any_queue_is_taken_over(queue: Queue) -> None:
    with tempfile.TemporaryDirectory() as folder:
        adopt(Path(folder), queue, 3)


@given(queues())
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
def test_the_text_of_a_queue_reads_back(queue: Queue) -> None:
    again = parse_queue(format_queue(queue, "x"))
    assert {path: file.data for path, file in again.files.items()} == {
        path: file.data for path, file in queue.files.items()
    }
    assert again.expected == queue.expected


def test_the_check_notices_a_delivery_too_many_and_one_too_few(tmp_path: Path) -> None:
    """The checker is not blind."""
    queue = parse_queue((DATA / "preprocessed.txt").read_text())
    wrong = parse_queue((DATA / "preprocessed.txt").read_text())
    first = sorted(wrong.expected.pending)[0]
    wrong.expected.pending[first] += random.choice([-1, 1])
    with pytest.raises(AssertionError):
        adopt(tmp_path, Queue(queue.files, wrong.expected), SPLIT)


def with_todo(head: bytes) -> Queue:
    """A new message to two recipients, whose envelope begins with ``head``."""
    queue, number = Queue(), 10**12
    queue.files[f"mess/{number % SPLIT}/{number}"] = File(b"Received: (qmail 2)\nSubject: x\n\nx")
    queue.files[f"todo/{number}"] = File(head + b"Fjoe@a.example\0Tann@here.example\0Tr@far.example\0")
    queue.expected.pending.update([(number, "local", b"ann@here.example"), (number, "remote", b"r@far.example")])
    return queue


def test_a_number_that_another_qmail_used_again_has_not_the_old_facts(tmp_path: Path) -> None:
    queue = with_todo(b"u1\0p2\0")
    home = make_home(tmp_path, queue, SPLIT)
    facts = home / f"queue/pyqmail/facts/{10**12 % SPLIT}/{10**12}"
    facts.parent.mkdir(parents=True)
    words = [b"facts 1", b"abc", b"Received: (qmail 1)", b"9", format_facts(Facts(envid=b"x"), b"joe@a.example")]
    facts.write_bytes(format_netstring(format_netstrings(words)))
    sending = Sending(home, split=SPLIT)
    try:
        outcome = take_over(sending, home)
    finally:
        sending.kill()
    check(queue.expected, outcome)
    assert f"warning: facts/{10**12} belongs to another message, not used\n" in outcome.log
    assert not facts.exists()


# with notqmail at hand: its queues as it makes them now, and ours taken over by it


@pytest.fixture
def reference() -> Iterator[Path]:
    """The home of a notqmail."""
    assert NOTQMAIL is not None
    yield Path(NOTQMAIL)


if NOTQMAIL is not None:

    @pytest.mark.parametrize("name", sorted(SCENARIOS))
    def test_a_queue_made_by_notqmail_now_is_taken_over(tmp_path: Path, reference: Path, name: str) -> None:
        queue, _ = play(name, reference)
        for file in queue.files.values():
            file.mtime = min(file.mtime, 0)
        adopt(tmp_path, queue, SPLIT)

    def hand_over(queue: Queue, reference: Path) -> Outcome:
        """Have notqmail take ``queue`` over."""
        host = Host(reference)
        try:
            shutil.rmtree(host.home / "queue")
            write_directory(host.home / "queue", queue.files, SPLIT)
            host.own()
            sending = host.sending()
            try:
                return take_over(sending, host.home, clean=False)
            finally:
                sending.kill()
        finally:
            host.close()

    @pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - {"being-written"}))
    def test_notqmail_takes_ours_over(reference: Path, name: str) -> None:
        """Not what is being written: with us that has no name until it is whole."""
        queue, _ = play(name, None)
        for file in queue.files.values():
            file.mtime = min(file.mtime, 0)
        check(queue.expected, hand_over(queue, reference))

    def test_notqmail_delivers_a_message_that_has_facts(reference: Path) -> None:
        queue = with_todo(b"p0 facts 0123456789abcdef\0u1\0p2\0")
        outcome = hand_over(queue, reference)
        check(queue.expected, outcome)
        assert " from <joe@a.example> qp 2 uid 1\n" in outcome.log

    def test_both_write_the_same_bounces(tmp_path: Path, reference: Path) -> None:
        """But for the date and the wording: field names, markers, recipients, quoting and the original."""
        queue = Queue()
        senders = [b"joe@a.example", b"", b"l-@a.example-@[]", b"-@[]", b"x-@[]", b'a"b\\c@d', b"a b@d", b"noat"]
        senders += [b"@b", b".a@b", b"a\nX: y@d", b"\xe9@d", b"a@b@d", b"#@[]"]
        for number, sender in enumerate(senders, start=10**12):
            name = f"{number % SPLIT}/{number}"
            queue.files[f"mess/{name}"] = File(b"Subject: %d\n\nx" % number)
            queue.files[f"info/{name}"] = File(b"F" + sender + b"\0")
            queue.files[f"bounce/{number}"] = File(b"<u@here.example>:\nno\n\n")

        def parts(outcome: Outcome) -> list[tuple[bytes, ...]]:
            found = []
            for message, envelope in outcome.bounces:
                head, _, body = message.partition(b"\n\n")
                fields = re.sub(rb"^Date: [0-9]{1,2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} ", b"Date: ", head)
                found.append((envelope, fields, body[: body.index(b"\n") + 1], body[body.index(b"\n<u@") :]))
            return sorted(found)

        sending = Sending(make_home(tmp_path, queue, SPLIT), split=SPLIT)
        try:
            ours = take_over(sending, tmp_path)
        finally:
            sending.kill()
        assert parts(ours) == parts(hand_over(queue, reference))

    def paragraphs(reference: Path | None, texts: list[bytes]) -> bytes:
        """bounce/N after a failure with each of ``texts``, of recipients of several kinds."""
        host = Host(reference)
        try:
            run = Run(host)
            try:
                names = [b"a@here.example", b"x@v.example", b"new\nline@here.example", b"alias-v-y@here.example"]
                number = run.put(b"joe@a.example", local=[names[index % 4] for index in range(len(texts))], remote=[])
                run.start(len(texts))
                for command, text in zip(run.sending.commands["local"], texts, strict=True):
                    run.sending.report("local", command.slot, b"D", text)
                run.sending.until(lambda: not run.on_disk())
                return (run.queue / f"bounce/{number}").read_bytes()
            finally:
                run.sending.kill()
        finally:
            host.close()

    def test_both_write_the_same_paragraphs(reference: Path) -> None:
        texts = [b"", b"\n", b"no", b"no\n\n\n", b"\n\na\n\n\nb\n", b"x" * 12_000, b"\xe9\t%\r\n", b"a\n", b"\n\n\n\n"]
        assert paragraphs(None, texts) == paragraphs(reference, texts)

    @pytest.mark.parametrize("name", ["preprocessed", "partly-done", "deferred", "one-channel-done", "bounces-pending"])
    def test_both_write_the_same_log(reference: Path, name: str) -> None:
        """The same lines, but for numbers and for the order in which messages are taken."""
        logs = [play(name, which)[1].splitlines() for which in (reference, None)]
        theirs, ours = (Counter(re.sub(r"[0-9]+", "N", line) for line in log) for log in logs)
        assert ours == theirs

    def classified(reference: Path | None, controls: dict[str, str], recipients: list[bytes]) -> list[list[bytes]]:
        """The records of local/N and remote/N for a message to ``recipients``."""
        host = Host(reference, {**controls, "concurrencylocal": "0\n", "concurrencyremote": "0\n"})
        try:
            run = Run(host)
            try:
                run.put(b"joe@a.example", local=recipients, remote=[])
                run.sending.start().until(lambda: run.sending.requests)
                files = read_directory(run.queue)
            finally:
                run.sending.kill()
            parts = [
                [file.data for path, file in files.items() if path.startswith(part)] for part in ("local", "remote")
            ]
            return [b"".join(data).split(b"\0") for data in parts]
        finally:
            host.close()

    @pytest.mark.parametrize("seed", range(12))
    def test_both_classify_alike(reference: Path, seed: int) -> None:
        """Any addresses, under any locals, percenthack and virtualdomains."""
        dice = random.Random(seed)
        atoms = ["a", "B", "a.b", ".b", "b.", "A.B.c", "", "x%y", "%", "a%b.c", "v-x", "é"]

        def some(separator: str) -> str:
            return separator.join(dice.choices(atoms, k=dice.choice([1, 1, 2, 3])))

        controls = {
            "me": "me.example\n",
            "envnoathost": dice.choice(atoms) + "\n",
            "locals": "".join(dice.choice(atoms) + "\n" for _ in range(2)) + "# c\n\n  \n",
            "percenthack": "".join(dice.choice(atoms) + "\n" for _ in range(4)),
            "virtualdomains": "".join(
                dice.choice(["", some("@"), "." + dice.choice(atoms)])
                + dice.choice([":", ":p", ":p-q:r", " ", ""])
                + "\n"
                for _ in range(12)
            ),
        }
        recipients = sorted({(some("") + dice.choice(["@", "@", "@", ""]) + some("@")).encode() for _ in range(150)})
        assert classified(None, controls, recipients) == classified(reference, controls, recipients)

    def senders_seen(reference: Path | None, senders: list[bytes]) -> list[tuple[bytes, bytes]]:
        """Sender and recipient of each delivery that is started for messages from ``senders``."""
        host = Host(reference)
        try:
            run = Run(host)
            try:
                for sender in senders:
                    run.put(sender, local=LOCAL[:1], remote=REMOTE[:1], virtual=b"x@y@v.example")
                run.start(3 * len(senders))
                commands = [command for some in run.sending.commands.values() for command in some]
                return sorted((command.sender, command.recipient) for command in commands)
            finally:
                run.sending.kill()
        finally:
            host.close()

    def test_both_vary_senders_alike(reference: Path) -> None:
        senders = [
            b"list-@a.example-@[]",
            b"-@[]",
            b"x-@[]",
            b"a@b@c-@[]",
            b"@-@[]",
            b"#@[]",
            b"",
            b"l-@a.example-@[]x",
        ]
        assert senders_seen(None, senders) == senders_seen(reference, senders)
