"""qmail-start as a process: recorders on PATH in place of the daemons, then our own programs."""

import grp
import json
import os
import pwd
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs.sending import BIN, make_queue
from tests.public_directory import public_directory

RECORDER = """#!{python} -IS
import json, os, sys
def fd(n):
    try:
        return os.readlink("/proc/self/fd/%d" % n)
    except OSError:
        return None
umask = os.umask(0)
os.umask(umask)
fds = {{n: fd(n) for n in range(7)}}
modes = {{}}
for n in fds:
    try:
        modes[n] = int([l for l in open("/proc/self/fdinfo/%d" % n) if l.startswith("flags")][0].split()[1], 8) & 3
    except OSError:
        modes[n] = None
record = dict(name=os.path.basename(sys.argv[0]), argv=sys.argv[1:], ids=os.getresuid(), gid=os.getresgid(),
    groups=sorted(os.getgroups()), fds=fds, modes=modes, cwd=os.getcwd(), umask=umask, pid=os.getpid(),
    environ=os.environ.get("MARK"))
sock = {folder!r} + "/" + record["name"]
with open(sock + ".tmp", "w") as f:
    json.dump(record, f)
os.rename(sock + ".tmp", sock + ".json")
os.write(int({done!r}), b"x")
"""
NAMES = ("qmail-lspawn", "qmail-rspawn", "qmail-clean", "qmail-send")


@pytest.fixture
def tree() -> Iterator[Path]:
    """A home that every user may enter."""
    if os.geteuid() != 0:
        pytest.skip("changing uids needs root")
    with public_directory() as folder:
        for name in ("control", "bin", "out"):
            (folder / name).mkdir()
        (folder / "out").chmod(0o777)
        (folder / "control/me").write_text("mx.example.test\n")
        make_queue(folder, 3)
        yield folder


def record(tree: Path, *arguments: str, logger: bool = False) -> dict[str, Any]:
    """Run qmail-start with recorders and return what each saw."""
    names = (*NAMES, "logger") if logger else NAMES
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    for name in names:
        program = tree / "bin" / name
        program.write_text(RECORDER.format(python=sys.executable, folder=str(tree / "out"), done=theirs))
        program.chmod(0o755)
    null = os.open("/dev/null", os.O_RDWR)
    environ = {"PATH": f"{tree}/bin:/usr/bin:/bin", "QMAIL_HOME": str(tree), "MARK": "kept"}
    process = subprocess.Popen(
        [sys.executable, "-ISXutf8", str(BIN / "qmail-start"), *arguments],
        env=environ,
        stdin=null,
        stdout=subprocess.PIPE,
        pass_fds=[theirs],
    )
    os.close(theirs)
    os.close(null)
    seen = 0
    while seen < len(names):
        assert select.select([ours], [], [], 20)[0]
        data = os.read(ours, 100)
        assert data, os.listdir(tree / "out")
        seen += len(data)
    os.close(ours)
    assert process.wait(20) == 0
    records = {name: json.loads((tree / "out" / f"{name}.json").read_text()) for name in names}
    records["pid"] = process.pid
    return records


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


QMAIL = "qmail"


@pytest.mark.contract(*[f"send 1.{row}" for row in (1, 3, 4, 5, 7, 9, 10, 11, 12)], "spawn 1.2")
def test_who_runs_on_which_descriptors(tree: Path) -> None:
    seen = record(tree)
    gid = grp.getgrnam(QMAIL).gr_gid
    lspawn, rspawn, clean, send = (seen[name] for name in NAMES)
    for daemon, user in ((lspawn, "root"), (rspawn, "qmailr"), (clean, "qmailq"), (send, "qmails")):
        assert daemon["ids"] == [uid(user)] * 3
        assert daemon["gid"] == [gid] * 3
        assert (daemon["cwd"], daemon["umask"], daemon["environ"]) == ("/", 0o077, "kept")
    assert lspawn["groups"] == clean["groups"] == send["groups"] == [gid]
    assert gid in rspawn["groups"]
    assert lspawn["argv"] == ["./Mailbox"]
    for first, daemon in zip((1, 3, 5), (lspawn, rspawn, clean), strict=True):
        assert daemon["fds"]["0"] == send["fds"][str(first)]
        assert daemon["fds"]["1"] == send["fds"][str(first + 1)]
        assert (daemon["modes"]["0"], daemon["modes"]["1"]) == (os.O_RDONLY, os.O_WRONLY)
        assert [send["modes"][str(first)], send["modes"][str(first + 1)]] == [os.O_WRONLY, os.O_RDONLY]
    assert send["pid"] == seen["pid"]
    assert len({send["fds"][str(fd)] for fd in range(7)}) == 7


@pytest.mark.contract("send 1.5", "send 1.6", "send 1.8")
def test_the_logger_reads_what_qmail_send_writes(tree: Path) -> None:
    seen = record(tree, "", "logger", "t", logger=True)
    logger, send = seen["logger"], seen["qmail-send"]
    nofiles = grp.getgrnam("nofiles").gr_gid
    assert (logger["ids"], logger["gid"], logger["groups"]) == ([uid("qmaill")] * 3, [nofiles] * 3, [nofiles])
    assert logger["argv"] == ["t"]
    assert logger["fds"]["0"] == send["fds"]["0"]
    assert logger["fds"]["1"] != send["fds"]["0"]
    assert seen["qmail-lspawn"]["argv"] == [""]


@pytest.mark.contract("send 1.2")
def test_a_missing_account_is_said_and_111(tree: Path) -> None:
    (tree / "control/conf-users").write_text("nosuchuser\n" * 8)
    done = subprocess.run(
        [sys.executable, "-ISXutf8", str(BIN / "qmail-start")],
        env={"PATH": "/usr/bin", "QMAIL_HOME": str(tree)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (111, b"fatal: unable to find user nosuchuser\n")


@pytest.mark.contract("send 1.4")
def test_a_closed_descriptor_0_is_fatal(tree: Path) -> None:
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-ISXutf8", str(BIN / "qmail-start")],
        {"PATH": "/usr/bin", "QMAIL_HOME": str(tree)},
        file_actions=[(os.POSIX_SPAWN_CLOSE, 0)],
    )
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 111


def test_our_own_programs_run_warm(tree: Path) -> None:
    """The real ones, forked and not executed, start and end together."""
    control = tree / "control"
    (control / "conf-split").write_text("3\n")
    for path in [tree / "queue", *(tree / "queue").rglob("*")]:
        top = path.relative_to(tree / "queue").parts[:1]
        owner = "qmails" if top and top[0] in ("info", "local", "remote", "bounce") else "qmailq"
        if path.name in ("sendmutex", "trigger"):
            owner = "qmails"
        os.chown(path, uid(owner), grp.getgrnam(QMAIL).gr_gid)
        if path.is_dir():
            path.chmod(0o750)
    (tree / "run").mkdir(mode=0o755)
    os.chown(tree / "run", uid("qmailq"), grp.getgrnam(QMAIL).gr_gid)
    for private in (tree / "run/send", tree / "queue/pyqmail"):
        private.mkdir(mode=0o700)
        os.chown(private, uid("qmails"), grp.getgrnam(QMAIL).gr_gid)
    (tree / "queue/lock/tcpto").write_bytes(bytes(1024))
    os.chown(tree / "queue/lock/tcpto", uid("qmailr"), -1)
    for name in (*NAMES, "qmail-queued"):
        if not (BIN / name).exists():
            pytest.skip(f"{name} is not here yet")
    process = subprocess.Popen(
        [sys.executable, "-ISXutf8", str(BIN / "qmail-start"), "./Maildir/"],
        env={"PATH": f"{BIN}:/usr/bin:/bin", "QMAIL_HOME": str(tree)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"status: local 0/10 remote 0/20\n"
    (children,) = [Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    queued = [int(child) for child in children if os.getsid(int(child)) == int(child)]
    assert len(children) == 4  # three daemons, and the supervisor of the helpers
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == b"status: exiting\n"
    assert process.wait(20) == 0
    for pid in queued:
        os.kill(pid, signal.SIGTERM)
