"""qmail-local against its users and senders: what they put in its way never hangs it, kills it or loses mail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs.spawn_bench import Home, Spawn, install
from tests.programs.test_qmail_local import LOCAL, Owner

MEGABYTE = 1 << 20


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path)


def run_limited(owner: Owner, limit: str, default: str) -> subprocess.CompletedProcess[bytes]:
    """A delivery under ``ulimit limit``."""
    (owner.base / "message").write_bytes(owner.message)
    with (owner.base / "message").open("rb") as message:
        return subprocess.run(
            ["sh", "-c", f'ulimit {limit}; exec "$0" "$@"', sys.executable, "-ISXutf8", LOCAL, "joe", owner.home]
            + ["joe", "", "", "x", "s", default],
            stdin=message,
            capture_output=True,
            env={"QMAIL_HOME": str(owner.base), "PATH": "/usr/bin:/bin"},
            timeout=60,
        )


@pytest.mark.parametrize("name", [".qmail-x", ".qmail-default"])
def test_a_fifo_or_device_link_as_dot_qmail_does_not_hang(owner: Owner, name: str) -> None:
    os.mkfifo(owner.home / name)
    assert owner.run(dash="-", ext="x").returncode == 100
    (owner.home / name).unlink()
    (owner.home / name).symlink_to("/dev/zero")
    assert owner.run(dash="-", ext="x").returncode == 100
    (owner.home / name).unlink()
    (owner.home / name).symlink_to(name)
    assert owner.run(dash="-", ext="x").returncode == 100


def test_a_dot_qmail_that_is_a_link_is_followed_and_its_target_s_mode_counts(owner: Owner) -> None:
    (owner.base / "elsewhere").write_text("./one\n")
    (owner.home / ".qmail").symlink_to(owner.base / "elsewhere")
    assert owner.run().stdout == b"did 1+0+0\n"
    (owner.base / "elsewhere").chmod(0o646)
    assert owner.run().returncode == 111


def test_a_fifo_as_mbox_without_a_reader_does_not_hang(owner: Owner) -> None:
    os.mkfifo(owner.home / "mbox")
    result = owner.run()
    assert (result.returncode, b"(#4.2.1)" in result.stdout) == (111, True)


def test_a_fifo_as_mbox_that_nobody_empties_does_not_hang(owner: Owner) -> None:
    os.mkfifo(owner.home / "mbox")
    owner.message = b"x" * MEGABYTE
    reader = os.open(owner.home / "mbox", os.O_RDONLY | os.O_NONBLOCK)
    try:
        result = owner.run()
    finally:
        os.close(reader)
    assert (result.returncode, b"(#4.3.0)" in result.stdout) == (111, True)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda box: os.mkfifo(box), id="a fifo"),
        pytest.param(lambda box: box.write_bytes(b""), id="a file"),
        pytest.param(lambda box: box.symlink_to("/dev/null"), id="a link to a device"),
        pytest.param(lambda box: box.symlink_to(box.name), id="a link to itself"),
        pytest.param(lambda box: (box / "tmp").mkdir(parents=True), id="no new"),
        pytest.param(lambda box: (box / "new").mkdir(parents=True), id="no tmp"),
        pytest.param(lambda box: (box.mkdir(), os.mkfifo(box / "tmp"), (box / "new").mkdir()), id="tmp is a fifo"),
        pytest.param(lambda box: (box.mkdir(), os.mkfifo(box / "new"), (box / "tmp").mkdir()), id="new is a fifo"),
    ],
)
def test_something_else_in_place_of_a_maildir_defers(owner: Owner, make: object) -> None:
    assert callable(make)
    make(owner.home / "M")
    result = owner.run(default="./M/")
    assert (result.returncode, b"(#4." in result.stdout) == (111, True)
    assert not any(path.is_file() and path.stat().st_size for path in owner.home.rglob("*"))


def test_a_home_that_vanishes_in_mid_delivery_defers(owner: Owner) -> None:
    owner.qmail("", f"|rm -r {owner.home}\n./one\n./M/\n")
    result = owner.run()
    assert (result.returncode, b"(#4." in result.stdout, b"did" in result.stdout) == (111, True, False)


def write_comments(owner: Owner, megabytes: int) -> None:
    """A .qmail of so many megabytes, of which only the last line says anything."""
    line = b"# nothing to see here, and this is said once more\n"
    with (owner.home / ".qmail").open("wb") as file:
        for _ in range(megabytes):
            file.write(line * (MEGABYTE // len(line)))
        file.write(b"./two\n")
    (owner.home / ".qmail").chmod(0o644)


def test_fifteen_megabytes_of_comments_in_dot_qmail(owner: Owner) -> None:
    write_comments(owner, 15)
    assert run_limited(owner, "-v 180000", "./one").stdout == b"did 1+0+0\n"  # no object for each of its lines
    assert (owner.home / "two").exists()


def test_more_than_sixteen_megabytes_of_dot_qmail_defer(owner: Owner) -> None:
    write_comments(owner, 17)
    result = run_limited(owner, "-v 500000", "./one")
    assert (result.returncode, b"(#4." in result.stdout + result.stderr) == (111, True)
    assert not (owner.home / "two").exists()


def test_memory_that_runs_out_defers(owner: Owner) -> None:
    with (owner.home / ".qmail").open("wb") as file:
        file.truncate(200 * MEGABYTE)
    (owner.home / ".qmail").chmod(0o644)
    result = run_limited(owner, "-v 150000", "./one")
    assert (result.returncode, b"(#4.3.0)" in result.stderr, result.stdout) == (111, True, b"")


def test_a_hundred_thousand_lines(owner: Owner) -> None:
    owner.qmail("", "# x\n\n" * 49_999 + "./one\n")
    assert owner.run().stdout == b"did 1+0+0\n"
    owner.qmail("", "".join(f"user{n}@example.org\n" for n in range(100_000)))
    result = owner.run()
    assert result.stdout.startswith(b"did 0+100000+0\nqp ")
    envelope = owner.envelope()
    assert envelope is not None and envelope.count("|T") == 100_000


def test_one_line_of_ten_megabytes(owner: Owner) -> None:
    owner.qmail("", "x" * (10 * MEGABYTE))
    assert owner.run(options=("-n",)).stdout.endswith(b"\ndid 0+1+0\n")
    owner.qmail("", "|" + "x" * (10 * MEGABYTE))
    result = owner.run()  # longer than any argument of a program may be
    assert (result.returncode, b"(#4.3.0)" in result.stdout) == (111, True)
    owner.qmail("", "./" + "x" * (10 * MEGABYTE))
    result = owner.run()
    assert (result.returncode, b"(#4.2.1)" in result.stdout) == (111, True)


def test_a_sender_full_of_odd_bytes_reaches_programs_as_it_is(owner: Owner) -> None:
    sender = "$(touch gone) `touch gone` ';touch gone' \\ \"\n\r\t\x01\u00e9@x"
    owner.qmail("", '|printf %s "$SENDER"; exit 99\n')
    assert owner.run(sender=sender).stdout == sender.encode() + b"did 0+0+1\n"
    assert not (owner.home / "gone").exists()


def test_an_extension_cannot_leave_the_home_by_dots(owner: Owner) -> None:
    (owner.base / "secret").write_text("|echo reached\n")
    (owner.home / ".qmail-").mkdir()
    assert owner.run(dash="-", ext="/../../secret").returncode == 100  # dots are colons in file names


def test_a_message_of_one_line_without_end(owner: Owner) -> None:
    owner.message = b"From " + b"x" * (20 * MEGABYTE)
    owner.maildir()
    assert owner.run(default="./mbox\n./M/").stdout == b"did 2+0+0\n"
    assert (owner.home / "mbox").read_bytes().endswith(b"\n>" + owner.message + b"\n\n")


def test_a_file_size_limit_defers_and_leaves_no_part(owner: Owner) -> None:
    box = owner.maildir()
    (owner.home / "mbox").write_bytes(b"old\n")
    owner.message = b"x" * MEGABYTE
    for default in ("./mbox", "./M/"):
        done = run_limited(owner, "-f 8", default)
        assert (done.returncode, b"(#4.3.0)" in done.stderr) == (111, True)
    assert (owner.home / "mbox").read_bytes() == b"old\n"
    assert not [path for path in box.rglob("*") if path.is_file()]


@pytest.mark.skipif(os.getuid() != 0, reason="changes uid")
def test_a_file_size_limit_in_a_warm_worker_leaves_no_part_either() -> None:
    home = Home()
    try:
        install(home.path / "bin/qmail-local", "qmail_local")
        home.assign(home.user("joe", 39001, "./mbox\n"))
        home.message("0/1", b"x" * 20_000)
        mbox = home.path / "joe" / "mbox"
        first = Spawn(home, "qmail-lspawn", "./mbox")  # so that no module is compiled below the limit, and cut
        assert first.deliver("joe@x").startswith(b"K")
        first.end()
        mbox.write_bytes(b"old\n")
        os.chown(mbox, 39001, 39001)
        spawn = Spawn(home, "qmail-lspawn", "./mbox", wrapper=("sh", "-c", 'ulimit -f 8; exec "$@"', "sh"))
        answer = spawn.deliver("joe@x")
        assert answer.startswith(b"Z") and b"(#4.3.0)" in answer
        assert mbox.read_bytes() == b"old\n"
        spawn.end()
    finally:
        home.close()


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a small file system")
def test_a_disk_that_is_really_full(owner: Owner) -> None:
    """In a mount namespace of its own, so that nothing stays mounted."""
    box = owner.maildir()
    owner.message = b"x" * 200_000
    script = f"""
        mount -t tmpfs -o size=64k,mode=755 tmpfs {owner.home} || exit 99
        mkdir -p {box}/tmp {box}/new {box}/cur; echo old > {owner.home}/mbox
        for line in ./M/ ./mbox; do
            {sys.executable} -ISXutf8 {LOCAL} joe {owner.home} joe '' '' x s $line < {owner.base}/message
            echo $?
        done
        cat {owner.home}/mbox; find {box} -type f
    """
    (owner.base / "message").write_bytes(owner.message)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        env={"QMAIL_HOME": str(owner.base), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        timeout=60,
    )
    assert done.stdout == b"111\n111\nold\n", done.stderr
    assert done.stderr.count(b"(#4.3.0)") == 2


@pytest.mark.skipif(os.getuid() != 0, reason="hides /proc")
def test_without_proc_a_maildir_and_an_mbox_still_get_mail(owner: Owner) -> None:
    box = owner.maildir()
    (owner.base / "message").write_bytes(owner.message)
    script = f"mount -t tmpfs tmpfs /proc && exec {sys.executable} -ISXutf8 {LOCAL} joe {owner.home} joe '' '' x s"
    with (owner.base / "message").open("rb") as message:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", f"{script} './M/\n./mbox'"],
            stdin=message,
            capture_output=True,
            env={"QMAIL_HOME": str(owner.base), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, b"did 2+0+0\n"), done.stderr
    assert [path.read_bytes() for path in (box / "new").iterdir()] == [
        b"Return-Path: <s>\nDelivered-To: joe@x\n" + owner.message
    ]
    assert not list((box / "tmp").iterdir())


def test_a_program_that_closes_its_descriptors_or_stays_behind(owner: Owner) -> None:
    owner.qmail("", "|exec <&- >&- 2>&-; exit 0\n|trap '' TERM INT HUP; exit 0\n|sleep 5 >/dev/null 2>&1 & exit 0\n")
    assert owner.run().stdout == b"did 0+0+3\n"


def test_a_program_cannot_make_the_next_one_skip_the_message(owner: Owner) -> None:
    owner.qmail("", "|cat >/dev/null\n|dd bs=1 skip=3 count=1 of=/dev/null 2>/dev/null\n|cat\n")
    assert owner.run().stdout == owner.message + b"did 0+0+3\n"


def test_a_program_that_removes_the_mailbox_of_the_next_line(owner: Owner) -> None:
    box = owner.maildir()
    owner.qmail("", f"|rm -r {box}/new\n./M/\n")
    assert owner.run().returncode == 111
    assert not list((box / "tmp").iterdir())
    shutil.rmtree(box)


def test_variables_of_the_caller_do_not_reach_the_wrong_names(owner: Owner) -> None:
    owner.environ.update({"DEFAULT": "inherited", "SENDER": "forged", "PYTHONPATH": "/tmp", "LD_X": "y"})
    result = owner.run(default='|echo "$DEFAULT $SENDER"; exit 99')
    assert result.stdout == b"inherited ann@s.example\ndid 0+0+1\n"
