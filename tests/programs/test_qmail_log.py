"""qmail-log: one line for each message or delivery, filters, statistics, and a log that goes on."""

import gzip
import os
import subprocess
from pathlib import Path

import pytest

PROGRAM = str(Path(__file__).resolve().parents[2] / "bin" / "qmail-log")
TORN = (10 << 30) if os.environ.get("PYQMAIL_TESTS_LONG") else (160 << 20)  # bytes
MEMORY_KIB = 160 << 10  # of address space; Python itself has 30 MiB
T0 = (1 << 62) + 10 + 1_700_000_000  # 2023-11-14 22:13:20 UTC


def line(second: int, text: str) -> str:
    """A line as multilog writes it."""
    return f"@{T0 + second:016x}00000000 {text}\n"


LOG = "".join(
    [
        line(0, "qmail-smtpd: accepted ip=192.0.2.1 helo=c from=<bob@client.test> to=<ann@a.test> bytes=211 qp=77"),
        line(0, "new msg 5"),
        line(0, "info msg 5: bytes 211 from <bob@client.test> qp 77 uid 1002"),
        line(0, "starting delivery 1: msg 5 to local ann@a.test"),
        line(1, "starting delivery 2: msg 5 to remote joe@b.test"),
        line(2, "delivery 1: success: did_1+0+0/"),
        line(3, "delivery 2: deferral: Connected_to_192.0.2.9_but_greeting_failed./"),
        line(400, "starting delivery 3: msg 5 to remote joe@b.test"),
        line(403, "delivery 3: success: 192.0.2.9_accepted_message./"),
        line(403, "end msg 5"),
        line(500, "new msg 6"),
        line(500, "info msg 6: bytes 9 from <eve@other.test> qp 78 uid 0"),
        line(500, "starting delivery 4: msg 6 to local nobody@a.test"),
        line(501, "delivery 4: failure: Sorry,_no_mailbox_here_by_that_name._(#5.1.1)/"),
        line(501, "bounce msg 6 qp 79"),
        line(501, "end msg 6"),
        line(600, "alert: unable to stat info"),
        line(700, "qmail-smtpd: refused ip=192.0.2.66 helo=x from=<s@p.test> to=<a@z.test> reason=553_sorry"),
    ]
)


def run(*options: str, text: str = LOG) -> subprocess.CompletedProcess[str]:
    """Read ``text`` from standard input."""
    return subprocess.run([PROGRAM, "--utc", *options, "-"], input=text, capture_output=True, text=True, timeout=60)


def test_a_line_for_each_message() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2023-11-14 22:13:20 accepted 192.0.2.1 <bob@client.test> to <ann@a.test> bytes=211 qp=77",
        "2023-11-14 22:20:03 success  msg 5 qp 77 <bob@client.test> 211 bytes to ann@a.test, joe@b.test in 7 min, "
        "3 attempts",
        "2023-11-14 22:21:41 failure  msg 6 qp 78 <eve@other.test> 9 bytes to nobody@a.test (failure) in 1.0 s, "
        "bounced",
        "2023-11-14 22:23:20 alert    alert: unable to stat info",
        "2023-11-14 22:25:00 refused  192.0.2.66 <s@p.test> to <a@z.test> reason=553_sorry",
    ]


def test_a_line_for_each_delivery() -> None:
    lines = run("-d", "--recipient", "joe").stdout.splitlines()
    assert lines == [
        "2023-11-14 22:13:23 deferral msg 5 <bob@client.test> to remote joe@b.test in 2.0 s: "
        "Connected to 192.0.2.9 but greeting failed.",
        "2023-11-14 22:20:03 success  msg 5 <bob@client.test> to remote joe@b.test in 3.0 s: "
        "192.0.2.9 accepted message.",
    ]


FILTERS = [
    (["--sender", "EVE"], ["msg 6"]),
    (["--recipient", "ann@"], ["<ann@a.test>", "msg 5"]),
    (["--address", "nobody"], ["msg 6"]),
    (["--host", "b.test"], ["msg 5"]),
    (["--host", "192.0.2.66"], ["refused"]),
    (["--result", "failure"], ["msg 6"]),
    (["--result", "accepted"], ["accepted"]),
    (["--id", "78"], ["msg 6"]),
    (["--id", "77"], ["qp=77", "msg 5"]),
    (["--since", "2023-11-15"], []),
]


@pytest.mark.parametrize(("options", "found"), FILTERS, ids=[" ".join(row[0]) for row in FILTERS])
def test_filters(options: list[str], found: list[str]) -> None:
    lines = run(*options).stdout.splitlines()
    assert len(lines) == len(found)
    assert all(part in text for text, part in zip(lines, found, strict=True))


def test_statistics() -> None:
    lines = run("-s").stdout.splitlines()
    assert lines[:7] == [
        "messages that left the queue: 2, 220 bytes",
        "success              2",
        "deferral             1",
        "failure              1",
        "alert                1",
        "smtp accepted        1",
        "smtp refused         1",
    ]
    assert "         1  <bob@client.test> (211)" in lines
    assert lines[lines.index("domains by deliveries (success/deferral/failure):") + 1 :] == [
        "         2  a.test (1/0/1)",
        "         2  b.test (1/1/0)",
    ]


def test_colour_only_where_it_is_asked_for_or_on_a_terminal() -> None:
    assert "\x1b" not in run().stdout
    assert "\x1b[31mfailure \x1b[0m" in run("--color", "always").stdout


def test_what_a_stranger_wrote_cannot_drive_the_terminal() -> None:
    assert "\x1b" not in run(text=line(0, "alert: \x1b[2J\x07")).stdout


HOSTILE = "\\u001b[2J\\u009b=1+1\\u202e<script>"


@pytest.mark.parametrize("options", [[], ["-d"], ["-s"], ["--rehearsal"]])
def test_names_of_json_lines_cannot_drive_the_terminal(options: list[str], tmp_path: Path) -> None:
    head = '{"time":"2023-11-14T22:13:20.5Z","program":"qmail-send","event":'
    objects = [
        f'"info","msg":5,"bytes":9,"sender":"{HOSTILE}@a.test","qp":7,"uid":0}}',
        f'"start","delivery":1,"msg":5,"channel":"remote","recipient":"x@{HOSTILE}"}}',
        f'"delivery","delivery":1,"result":"failure","text":"{HOSTILE}"}}',
        '"end","msg":5}',
        f'"decision","result":"accepted","ip":"::1","helo":"{HOSTILE}","sender":"","to":[],"rehearsal":"spf:{HOSTILE}"}}',
    ]
    text = "".join(head + each + "\n" for each in objects)
    (tmp_path / "log").write_text("".join(f"@{T0:016x}00000000 {each}\n" for each in text.splitlines()))
    words = [PROGRAM, "--utc", *options, str(tmp_path / "log")]
    quick = subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
    assert run(*options, text=text).stdout == quick
    assert "?[2j" in quick.lower() and all(char.isprintable() or char == "\n" for char in quick)


def test_a_line_of_ten_megabytes_is_one_line_of_nobody() -> None:
    assert (
        run("-s", text=line(0, "alert: " + "x" * 10_000_000) + LOG).stdout
        == run("-s", text=line(0, "alert: x") + LOG).stdout
    )


def test_a_directory_is_read_with_what_was_rotated(tmp_path: Path) -> None:
    half = LOG.index(line(400, "starting delivery 3: msg 5 to remote joe@b.test"))
    (tmp_path / f"@{T0:016x}00000000.s").write_text(LOG[:half])
    (tmp_path / "current").write_text(LOG[half:])
    done = subprocess.run([PROGRAM, "--utc", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == run().stdout


def test_follow_goes_on_through_a_rotation(tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.write_text(line(0, "alert: one"))
    with subprocess.Popen([PROGRAM, "-f", str(tmp_path)], stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            assert following.stdout.readline().endswith("alert: one\n")
            with current.open("a") as log:
                log.write(line(1, "alert: two"))
            assert following.stdout.readline().endswith("alert: two\n")
            os.rename(current, tmp_path / f"@{T0:016x}00000000.s")
            (tmp_path / "next").write_text(line(2, "alert: three"))
            os.rename(tmp_path / "next", current)
            assert following.stdout.readline().endswith("alert: three\n")
        finally:
            following.terminate()


def test_the_journal_is_read_by_unit(tmp_path: Path) -> None:
    fake = tmp_path / "journalctl"  # no journal runs here: what is asked of it, and what it would print
    fake.write_text('#!/bin/sh\necho "$@" >&2\necho "1700000000.000000 mx qmail-send[9]: alert: from the journal"\n')
    fake.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [PROGRAM, "--utc", "--unit", "qmail-send"], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "2023-11-14 22:13:20 alert    alert: from the journal\n"
    assert done.stderr == "-o short-unix --no-pager -u qmail-send\n"


def test_a_log_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run([PROGRAM, str(tmp_path / "nothing")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (111, "")
    assert done.stderr == f"qmail-log: {tmp_path}/nothing: No such file or directory\n"
    assert run("--result", "perhaps").returncode == 100


def test_what_is_no_log_of_ours_is_said() -> None:
    done = run(text="one\ntwo\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "qmail-log: -: no line was understood: is this a log of qmail-send or qmail-smtpd?\n"
    assert run(text="").returncode == 0


def test_a_file_that_gzip_has_compressed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.1.gz"
    path.write_bytes(gzip.compress(LOG.encode()))
    done = subprocess.run([PROGRAM, "--utc", str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == run().stdout


def trace(wanted: str, *logs: Path) -> list[str]:
    """What ``qmail-log trace`` prints, without the times."""
    words = [PROGRAM, "trace", "--utc", wanted, *map(str, logs)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line[27:] for line in done.stdout.splitlines()]


def test_a_trace_is_a_messages_life_from_all_logs_together(tmp_path: Path) -> None:
    doors, sends = tmp_path / "smtpd", tmp_path / "send"
    doors.write_text("".join(line for line in LOG.splitlines(keepends=True) if "qmail-smtpd" in line))
    bounce = [(502, "new msg 9"), (502, "info msg 9: bytes 900 from <> qp 79 uid 1008")]
    bounce += [(502, "starting delivery 9: msg 9 to remote eve@other.test"), (503, "delivery 9: success: ok/")]
    bounce += [(503, "end msg 9"), (504, "new msg 5"), (504, "info msg 5: bytes 1 from <x@y.test> qp 91 uid 0")]
    rest = [line for line in LOG.splitlines(keepends=True) if "qmail-smtpd" not in line]
    sends.write_text("".join([*rest, *(line(*each) for each in bounce)]))
    first = trace("ann@A.test", doors, sends)
    assert first[0].startswith("smtpd qmail-smtpd: accepted ip=192.0.2.1")
    assert first[1:3] == ["send new msg 5", "send info msg 5: bytes 211 from <bob@client.test> qp 77 uid 1002"]
    assert first[-1] == "send end msg 5" and len(first) == 10
    assert trace("77", doors, sends) == first  # by its submission
    assert len(trace("5", doors, sends)) == len(first) + 2  # two messages had that number
    bounced = trace("eve@", sends)
    assert bounced[0] == "send new msg 6" and bounced[-1] == "send end msg 9" and len(bounced) == 11
    assert trace("a@z.test", doors, sends) == [
        "smtpd qmail-smtpd: refused ip=192.0.2.66 helo=x from=<s@p.test> to=<a@z.test> reason=553_sorry"
    ]
    assert trace("nobody@nowhere", doors, sends) == []


@pytest.mark.parametrize("begin", [line(0, "new msg 5"), "a torn"], ids=["of multilog", "of nobody"])
@pytest.mark.parametrize("options", [[], ["-s"]], ids=["messages", "statistics"])
def test_a_log_that_is_torn_is_read_in_bounded_memory(tmp_path: Path, begin: str, options: list[str]) -> None:
    """A hole as after a crash: zeros without end, and a log after them."""
    torn = tmp_path / "log"
    with torn.open("wb") as log:
        log.write(begin.encode())
        log.truncate(TORN)
        log.seek(0, os.SEEK_END)
        log.write(b"\n" + LOG.encode())
    words = ["sh", "-c", f'ulimit -v {MEMORY_KIB} && exec "$@"', "sh", PROGRAM, "--utc", *options, str(torn)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert ("msg 5 qp 77" if not options else "messages that left the queue: 2") in done.stdout
