"""An Injection as its callers use it: through the service, in a child, through QMAILQUEUE."""

import errno
import itertools
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyqmail.intake import client, pipes
from pyqmail.intake.client import Answer, Injection
from pyqmail.protocol import queued
from tests.spool.queue_tree import REPO, Tree


@pytest.fixture(params=["service", "own queue", "program"])
def tree(request: pytest.FixtureRequest) -> Iterator[Tree]:
    made = Tree(single_user=os.getuid() != 0)
    if request.param == "service":
        made.start_service()
    elif request.param == "program":
        link_programs(made)
    yield made
    made.close()


@pytest.fixture
def served() -> Iterator[Tree]:
    made = Tree(single_user=os.getuid() != 0)
    made.start_service()
    yield made
    made.close()


def link_programs(tree: Tree) -> None:
    """HOME/bin/qmail-queue, executed as by a cold program."""
    (tree.home / "bin").mkdir()
    script = tree.home / "bin/qmail-queue"
    script.write_text(f'#!/bin/sh\nexec {REPO}/bin/qmail-queue\n')  # fmt: skip
    script.chmod(0o755)


def environ(tree: Tree) -> dict[bytes, bytes]:
    return {os.fsencode(key): os.fsencode(value) for key, value in tree.environ().items()}


def start(tree: Tree) -> Injection:
    return Injection.open(str(tree.home), environ(tree), warm=True)


@pytest.mark.contract("queue 7.1")
def test_a_message_is_queued_under_the_number_told(tree: Tree) -> None:
    injection = start(tree)
    injection.write(b"one\n")
    injection.write(b"two\n")
    answer = injection.close(b"ann@a", [b"bob@b", b"cid@c"])
    assert answer.status == 0 and answer.letter_text() == (b"K", b"")
    message, envelope = tree.read(tree.todo()[0])
    assert message.endswith(b"\none\ntwo\n")
    assert envelope.endswith(b"\0p%d\0Fann@a\0Tbob@b\0Tcid@c\0" % answer.number)


def test_a_failed_submission_is_not_queued(tree: Tree) -> None:
    injection = start(tree)
    injection.write(b"one\n")
    injection.fail()
    assert injection.close(b"ann@a", [b"bob@b"]).status == 54
    assert tree.todo() == []


def test_an_aborted_submission_is_not_queued_and_leaves_no_descriptor(tree: Tree) -> None:
    before = len(os.listdir("/proc/self/fd"))
    injection = start(tree)
    injection.write(b"one\n")
    injection.abort()
    injection.abort()
    assert tree.todo() == [] and len(os.listdir("/proc/self/fd")) == before


def test_a_large_message_and_envelope_pass(tree: Tree) -> None:
    injection = start(tree)
    body = os.urandom(1 << 20)
    injection.write(body)
    assert injection.close(b"", [b"user%d@host" % n for n in range(20000)]).status == 0
    assert tree.read(tree.todo()[0])[0].endswith(b"\n" + body)


@pytest.mark.parametrize("size", [20000, 40000])
def test_only_what_is_too_long_for_a_request_goes_through_pipes(
    served: Tree, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    piped: list[int] = []
    real = pipes.Pipes
    monkeypatch.setattr(pipes, "Pipes", lambda: piped.append(size) or real())
    injection = start(served)
    injection.write(b"x" * size)
    assert injection.close(b"", [b"user@host"]).status == 0
    assert served.read(served.todo()[0])[0].endswith(b"\n" + b"x" * size)
    assert bool(piped) == (size > queued.FACTS_MAX)


@pytest.mark.parametrize("refusal", ["socket", "service"])
def test_who_does_not_take_a_whole_request_gets_pipes(
    served: Tree, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    """A socket whose buffers are small, and a service of a build that does not know of such requests."""
    real = queued.format_whole

    def format_whole(message: bytes, envelope: bytes, **options: bool) -> bytes:
        record = real(message, envelope, **options)
        assert record is not None
        return record + bytes(1 << 20) if refusal == "socket" else b"pq1\x08" + record[4:]

    monkeypatch.setattr(queued, "format_whole", format_whole)
    before = len(os.listdir("/proc/self/fd"))
    injection = start(served)
    injection.write(b"one\n")
    assert injection.close(b"ann@a", [b"bob@b"]).status == 0
    assert served.read(served.todo()[0])[0].endswith(b"\none\n") and len(served.todo()) == 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_kernel_whose_pipes_cannot_be_asked_to_be_quick(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no such write")

    monkeypatch.setattr("os.pwritev", unknown)
    injection = start(tree)
    body = os.urandom(40000)
    injection.write(body)
    assert injection.close(b"", [b"user%d@host" % n for n in range(20000)]).status == 0
    assert tree.read(tree.todo()[0])[0].endswith(b"\n" + body)


@pytest.mark.contract("queue 7.2")
def test_a_refused_envelope_tells_its_code(tree: Tree) -> None:
    injection = start(tree)
    answer = injection.close(b"a", [b"x" * 1003])
    assert answer.status == 11 and answer.letter_text()[0] == b"D"


@pytest.fixture
def plain() -> Iterator[Tree]:
    made = Tree(single_user=os.getuid() != 0)
    yield made
    made.close()


def through(tree: Tree, script: str | None, *, recipients: tuple[bytes, ...] = (b"r",)) -> Answer:
    """The answer of a QMAILQUEUE program with this text (None: a missing one)."""
    path = tree.home / "wrapper"
    if script is not None:
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)
    injection = Injection.open(str(tree.home), environ(tree) | {b"QMAILQUEUE": os.fsencode(path)}, warm=True)
    injection.write(b"body\n")
    return injection.close(b"s", recipients)


def test_qmailqueue_gets_message_and_envelope_in_home(plain: Tree) -> None:
    answer = through(plain, "cat > seen; cat <&1 >> seen; pwd >> seen; echo $0 >> seen; exit 0\n")
    assert answer.status == 0 and answer.number > 0
    seen = (plain.home / "seen").read_bytes()
    assert seen == b"body\nFs\0Tr\0\0" + os.fsencode(plain.home) + b"\n" + os.fsencode(plain.home / "wrapper") + b"\n"


@pytest.mark.contract("queue 7.8")
@pytest.mark.parametrize(
    ("script", "letter", "text"),
    [
        pytest.param("cat >/dev/null; printf 'Dno spam' >&6; exit 82", b"D", b"no spam", id="permanent"),
        pytest.param("cat >/dev/null; printf 'Zlater' >&6; exit 82", b"Z", b"later", id="temporary"),
        pytest.param(
            "cat >/dev/null; printf 'Dx' >&6; exit 82", b"Z", b"qq temporary problem (#4.3.0)", id="too short"
        ),
        pytest.param("cat >/dev/null; printf 'Dvirus' >&4; exit 82", b"D", b"virus", id="by descriptor 4, as simscan"),
        pytest.param("cat >/dev/null; printf 'Dvirus' >&$ERROR_FD; exit 88", b"D", b"virus", id="exit 88"),
        pytest.param("cat >/dev/null; exit 88", b"Z", b"qq temporary problem (#4.3.0)", id="exit 88 with nothing"),
        pytest.param("cat >/dev/null; exit 82", b"Z", b"qq temporary problem (#4.3.0)", id="none"),
    ],
)
def test_custom_text_of_exit_82(plain: Tree, script: str, letter: bytes, text: bytes) -> None:
    assert through(plain, script).letter_text() == (letter, text)


def test_custom_text_is_cut_at_255_bytes(plain: Tree) -> None:
    answer = through(plain, "cat >/dev/null; printf 'D%0400d' 7 >&6; exit 82")
    assert answer.text is not None and len(answer.text) == 255


@pytest.mark.contract("queue 7.3", "queue 7.4", "queue 7.9")
@pytest.mark.parametrize(
    ("script", "status", "letter"),
    [
        pytest.param("exit 31", 31, b"D", id="next hop refuses"),
        pytest.param("exit 33", 33, b"D", id="other permanent"),
        pytest.param("exit 51", 51, b"Z", id="no memory"),
        pytest.param("exit 1", 1, b"Z", id="a traceback", marks=pytest.mark.contract("queue 12.11")),
        pytest.param("kill -9 $$", -1, b"Z", id="killed"),
        pytest.param(None, 120, b"Z", id="missing"),
    ],
)
def test_codes_of_qmailqueue(plain: Tree, script: str | None, status: int, letter: bytes) -> None:
    answer = through(plain, script)
    assert (answer.status, answer.letter_text()[0]) == (status, letter)


@pytest.mark.contract("queue 7.1")
def test_success_after_our_own_write_failure_counts_as_a_read_error(plain: Tree) -> None:
    path = plain.home / "wrapper"
    path.write_text("#!/bin/sh\nexec <&-\nexit 0\n")
    path.chmod(0o755)
    injection = Injection.open(str(plain.home), environ(plain) | {b"QMAILQUEUE": os.fsencode(path)})
    for _ in range(100):
        injection.write(b"x" * 65536)
    assert injection.close(b"s", [b"r"]).status == 54


@pytest.mark.contract("queue 7.5")
def test_no_home_is_61(tmp_path: Path) -> None:
    injection = Injection.open(str(tmp_path / "gone"), {b"QMAILQUEUE": b"/bin/true"})
    assert injection.close(b"s", [b"r"]).status == 61


def test_a_foreign_qmail_queue_in_home_is_executed(plain: Tree) -> None:
    (plain.home / "bin").mkdir()
    script = plain.home / "bin/qmail-queue"
    script.write_text("#!/bin/sh\ncat >/dev/null\nexit 40\n")
    script.chmod(0o755)
    assert start(plain).close(b"s", [b"r"]).status == 40


@pytest.mark.contract("queue 7.7")
def test_no_service_is_73_for_those_who_may_not_write_the_queue(plain: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0)
    monkeypatch.setattr(client, "may_write_queue", lambda home: False)
    injection = start(plain)
    injection.write(b"x")
    assert injection.close(b"s", [b"r"]).status == 73


def with_few_descriptors(more: int, deed: Callable[[], int]) -> int:
    """What ``deed`` returns in a process that may open ``more`` descriptors from now on; 99 for an exception."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            seen = os.listdir(
                "/proc/self/fd"
            )  # with gaps between them, after other tests, and the one of the list itself
            used = {int(name) for name in seen if os.path.exists(f"/proc/self/fd/{name}")}
            free = (number for number in itertools.count() if number not in used)
            limit = next(itertools.islice(free, more, None))
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            code = deed()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("size", [5, 200000], ids=["small", "large"])
def test_without_descriptors_writing_never_raises_and_the_answer_is_temporary(tree: Tree, size: int) -> None:
    """A server that asks for the answer always has one to give."""

    def deed() -> int:
        try:
            injection = start(tree)
        except OSError:  # documented, and before anything has been promised to a client
            return 51
        injection.write(b"x" * size)
        injection.write(b"more")
        answer = injection.close(b"s", [b"r"])
        injection.abort()
        return answer.status & 255

    answers = [with_few_descriptors(more, deed) for more in range(12)]
    assert answers[0] != 0 and answers[-1] == 0
    assert all(status == 0 or not 11 <= status <= 40 for status in answers) and 99 not in answers
    assert len(tree.todo()) == answers.count(0)
