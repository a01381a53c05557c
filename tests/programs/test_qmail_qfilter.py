"""qmail-qfilter between a client and a queue program, with filters of shell."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs.door import BIN, DEADLINE_S
from tests.programs.queue_program import write_queue_program

MESSAGE = b"Subject: x\n\nhello\n"
ENVELOPE = b"Fs@x.test\0Tr@y.test\0Tq@y.test\0\0"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    write_queue_program(tmp_path / "bin/qmail-queue")
    return tmp_path


def run(
    home: Path, *filters: str, envelope: bytes = ENVELOPE, message: bytes = MESSAGE, **environ: str
) -> tuple[int, bytes]:
    """The exit code after these commands of a shell, and what is said on descriptor 6."""
    words = [word for text in filters for word in ("--", "sh", "-c", text)][1:]
    read, write = os.pipe()
    heard, said = os.pipe()
    os.write(write, envelope)
    os.close(write)
    told = {"QMAIL_HOME": str(home), "OUT": str(home), "PATH": "/usr/bin:/bin", **environ}
    done = subprocess.run(
        [BIN / "qmail-qfilter", *words], input=message, stdout=read, stderr=subprocess.PIPE, env=told,
        timeout=DEADLINE_S, check=False, pass_fds=[6], preexec_fn=lambda: os.dup2(said, 6),
    )  # fmt: skip
    (home / "log").write_bytes(done.stderr)
    for fd in (read, said):
        os.close(fd)
    with os.fdopen(heard, "rb") as file:
        return done.returncode, file.read()


def queued(home: Path) -> tuple[bytes, bytes]:
    return (home / "queued").read_bytes(), (home / "envelope").read_bytes()


def nothing_queued(home: Path) -> bool:
    return not (home / "queued").exists()


def test_each_filter_gets_what_the_last_one_wrote_and_the_queue_program_what_is_left(home: Path) -> None:
    assert run(home, "echo X-One: 1; cat", "cat >$OUT/seen", "sed s/hello/bye/") == (0, b"")
    assert queued(home) == (b"X-One: 1\nSubject: x\n\nbye\n", b"Fs@x.test|Tr@y.test|Tq@y.test||")
    assert (home / "seen").read_bytes() == b"X-One: 1\n" + MESSAGE


def test_the_envelope_is_on_3_and_may_be_changed_on_4(home: Path) -> None:
    assert run(home, "tr xy ab <&3 >&4", 'echo "$QMAILUSER $QMAILHOST $NUMRCPTS $ENVSIZE" >$OUT/seen') == (0, b"")
    assert queued(home) == (MESSAGE, b"Fs@a.test|Tr@b.test|Tq@b.test||")
    assert (home / "seen").read_bytes() == b"s a.test 2 %d\n" % len(ENVELOPE)


def test_what_filters_find_in_their_environment(home: Path) -> None:
    seen = 'printf "%s|" "$QMAILRCPTS" "$MSGSIZE" "$QMAILPPID" "${QMAILNAME-none}" "${QMAILQUEUE-none}" >$OUT/seen'
    assert run(home, seen, QMAILNAME="x", QMAILQUEUE="qmail-qfilter")[0] == 0
    expected = b"r@y.test\nq@y.test\n|%d|%d|none|none|" % (len(MESSAGE), os.getpid())
    assert (home / "seen").read_bytes() == expected


def test_more_recipients_than_an_environment_holds_are_on_3_alone(home: Path) -> None:
    grow = "printf 'F\\0' >&4; seq -f 'T%g@y.test' 1 20000 | tr '\\n' '\\0' >&4; printf '\\0' >&4"
    assert run(home, grow, 'echo "${QMAILRCPTS-none} $NUMRCPTS" >$OUT/seen')[0] == 0
    assert (home / "seen").read_bytes() == b"none 20000\n"


def test_a_program_on_5_or_in_a_variable_is_run_in_place_of_qmail_queue(home: Path) -> None:
    for name in ("one", "two"):
        (home / name).write_text(f"#!/bin/sh\ncat >$OUT/{name}.got; exit 0\n")
        (home / name).chmod(0o755)
    assert run(home, "true", QQF_QMAILQUEUE=str(home / "one"))[0] == 0
    assert (home / "one.got").read_bytes() == MESSAGE
    told = f"printf '%s\\0rest' {shlex.quote(str(home / 'two'))} >&5"
    assert run(home, told, "true", QQF_QMAILQUEUE=str(home / "one"))[0] == 0
    assert (home / "two.got").read_bytes() == MESSAGE and nothing_queued(home)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        pytest.param("exit 31", 31, b"", id="its own code"),
        pytest.param("exit 71", 71, b"", id="another"),
        pytest.param("exit 99", 0, b"", id="dropped, and that is a success"),
        pytest.param("printf Dvirus >&6; exit 82", 82, b"Dvirus", id="with a text"),
        pytest.param("printf Zlater >&$ERROR_FD; exit 88", 82, b"Zlater", id="with a text by ERROR_FD"),
        pytest.param("printf Dvirus >&6; exit 31", 31, b"", id="a text that nobody asked for"),
        pytest.param("yes | head -c 9000 >&6; exit 82", 82, b"y\n" * 500, id="too long a text"),
        pytest.param("cat; kill -9 $$", 81, b"", id="killed"),
        pytest.param("printf 'Fhalf' >&4", 91, b"", id="half an envelope"),
    ],
)
def test_after_any_other_end_nothing_is_queued(home: Path, text: str, code: int, said: bytes) -> None:
    assert run(home, text, "touch $OUT/next") == (code, said)
    assert nothing_queued(home) and not (home / "next").exists()


def test_a_text_goes_where_our_own_caller_listens(home: Path) -> None:
    assert run(home, "printf Dvirus >&6; exit 88", ERROR_FD="6") == (88, b"Dvirus")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        pytest.param(["sh", "-c", "exec sleep 1000"], b"takes too long", id="too slow"),
        pytest.param(["sh", "-c", "exec yes"], b"writes too much", id="endless"),
        pytest.param(["nowhere/at-all"], b"No such file or directory", id="missing"),
    ],
)
def test_one_that_has_no_end_of_its_own_defers_and_is_named(home: Path, words: list[str], why: bytes) -> None:
    program = (
        "import os, sys; from pyqmail.programs import qmail_qfilter as q\n"
        "q.FILTER_S, q.GROWTH_MAX = 3.0, 1 << 20\n"
        "sys.exit(q.main([os.fsencode(w) for w in sys.argv], os.environb))\n"
    )
    (home / "message").write_bytes(MESSAGE)
    (home / "given").write_bytes(ENVELOPE)
    with (home / "message").open() as message, (home / "given").open() as given:
        ended = subprocess.run(
            [sys.executable, "-c", program, *words], stdin=message, stdout=given, stderr=subprocess.PIPE,
            cwd=BIN.parent, env={"QMAIL_HOME": str(home), "OUT": str(home), "PATH": "/usr/bin:/bin"},
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    assert ended.returncode == 81 and nothing_queued(home)
    assert ended.stderr.endswith(why + b": the message is deferred\n")


@pytest.mark.parametrize("words", [[], ["--"], ["true", "--"]], ids=["none", "empty", "last empty"])
def test_without_a_filter_it_does_nothing(home: Path, words: list[str]) -> None:
    done = subprocess.run([BIN / "qmail-qfilter", *words], stdin=subprocess.DEVNULL, timeout=DEADLINE_S, check=False)
    assert done.returncode == 81
