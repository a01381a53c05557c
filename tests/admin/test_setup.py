"""bin/qmail-setup: what it installs, what it leaves alone, and what --check reports."""

import grp
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.admin import installing, tree
from pyqmail.admin.catalogue import PYTHON
from pyqmail.admin.package import build_text
from pyqmail.admin.target import Target
from pyqmail.launch import BUNDLED, BUNDLES
from pyqmail.spool.layout import DRAFTS
from tests.public_directory import public_directory

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the tree has seven users")


def setup(home: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run bin/qmail-setup for ``home``."""
    command = [str(ROOT / "bin" / "qmail-setup"), *options]
    given = {"PATH": os.environ["PATH"], "QMAIL_HOME": str(home)} | environ
    return subprocess.run(command, env=given, capture_output=True, text=True)


def snapshot(home: Path) -> dict[str, tuple[int, int, int, int, int]]:
    """Inode, owner, mode and change time of every path."""
    found = {}
    for folder, names, files in os.walk(home):
        for name in (*names, *files):
            status = os.lstat(os.path.join(folder, name))
            key = os.path.relpath(os.path.join(folder, name), home)
            found[key] = (status.st_ino, status.st_uid, status.st_gid, status.st_mode, status.st_ctime_ns)
    return found


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """One installed tree, which the tests of this module look at and leave as it was."""
    with public_directory() as base:
        result = setup(base / "qmail")
        assert result.returncode == 0, result.stderr
        yield base / "qmail"


def test_it_needs_none_of_the_modules_that_it_installs() -> None:
    blocked = "import sys; sys.path.insert(0, sys.argv[1]); sys.modules |= dict.fromkeys(sys.argv[2:])\n"
    modules = ("cdblib", "dns", "daemon", "setproctitle", "pamela", "lockfile")
    program = blocked + "import pyqmail.admin.setup, pyqmail.admin.inspection"
    done = subprocess.run([PYTHON, "-I", "-c", program, str(ROOT), *modules], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_misuse_is_one_message_and_changes_nothing(tmp_path: Path) -> None:
    helped = setup(tmp_path / "qmail", "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith("usage: qmail-setup ") and "--single-user" in helped.stdout
    for wrong in (["--bogus"], ["--check", "--accounts"]):
        refused = setup(tmp_path / "qmail", *wrong)
        assert refused.returncode == 2 and refused.stderr.splitlines()[-1].startswith("qmail-setup: error: ")
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "qmail").exists()


QUEUE_MODES = [
    ("queue", "qmailq", 0o750, stat.S_ISDIR),
    ("queue/pid", "qmailq", 0o700, stat.S_ISDIR),
    ("queue/intd", "qmailq", 0o700, stat.S_ISDIR),
    ("queue/todo", "qmailq", 0o750, stat.S_ISDIR),
    ("queue/mess", "qmailq", 0o750, stat.S_ISDIR),
    ("queue/mess/22", "qmailq", 0o750, stat.S_ISDIR),
    ("queue/info/0", "qmails", 0o700, stat.S_ISDIR),
    ("queue/local/22", "qmails", 0o700, stat.S_ISDIR),
    ("queue/remote", "qmails", 0o700, stat.S_ISDIR),
    ("queue/bounce", "qmails", 0o700, stat.S_ISDIR),
    ("queue/lock", "qmailq", 0o750, stat.S_ISDIR),
    ("queue/lock/sendmutex", "qmails", 0o600, stat.S_ISREG),
    ("queue/lock/trigger", "qmails", 0o622, stat.S_ISFIFO),
    ("queue/lock/tcpto", "qmailr", 0o644, stat.S_ISREG),
    ("alias", "alias", 0o2755, stat.S_ISDIR),
    ("run", "qmailq", 0o755, stat.S_ISDIR),
    ("bin/qmail-queue", "root", 0o755, stat.S_ISREG),
    ("bin/qmail-lspawn", "root", 0o700, stat.S_ISREG),
]


@needs_root
@pytest.mark.contract("queue 1.1", "queue 1.2", "queue 1.3", *(f"queue 2.{row}" for row in range(1, 12)))
@pytest.mark.parametrize(("path", "owner", "mode", "kind"), QUEUE_MODES, ids=[row[0] for row in QUEUE_MODES])
def test_owner_group_and_mode(installed: Path, path: str, owner: str, mode: int, kind: object) -> None:
    status = (installed / path).lstat()
    assert kind(status.st_mode)  # type: ignore[operator]
    assert pwd.getpwuid(status.st_uid).pw_name == owner
    assert grp.getgrgid(status.st_gid).gr_name == "qmail"
    assert stat.S_IMODE(status.st_mode) == mode


@needs_root
@pytest.mark.contract("queue 2.9", "queue 2.11", "queue 12.6")
def test_lock_files_have_their_sizes_and_only_four_parts_are_split(installed: Path) -> None:
    assert (installed / "queue/lock/sendmutex").stat().st_size == 0
    assert (installed / "queue/lock/tcpto").read_bytes() == bytes(1024)
    for part in ("mess", "info", "local", "remote"):
        assert sorted(int(path.name) for path in (installed / "queue" / part).iterdir()) == list(range(23))
    for part in ("todo", "intd", "bounce", "pid"):
        assert list((installed / "queue" / part).iterdir()) == []


@needs_root
def test_a_second_run_changes_nothing_and_the_check_is_content(installed: Path) -> None:
    before = snapshot(installed)
    assert setup(installed).returncode == 0
    after = snapshot(installed)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    assert changed <= {"lib"}
    checked = setup(installed, "--check")
    assert (checked.returncode, checked.stdout) == (0, "")


@needs_root
def test_no_setuid_or_setgid_bit_but_that_of_alias(installed: Path) -> None:
    bits = [path for path, row in snapshot(installed).items() if row[3] & 0o6000]
    assert bits == ["alias"]


@needs_root
@pytest.mark.contract("control 5.15")
def test_documents_and_manual_pages_are_there_for_everybody(installed: Path) -> None:
    files = [path for path in (installed / "doc").iterdir() if path.is_file()]
    found = [*files, *(installed / "man").glob("man?/*.?")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o644}
    assert {"INSTALL.md", "CHANGELOG.md"} <= {path.name for path in found}
    assert {"qmail.7", "qmail-control.5", "qmail-send.8", "forward.1"} <= {path.name for path in found}


def run_bundled(library: Path) -> list[str]:
    """Load the bundle of each program in a process of its own; the names of what it imports from files all the same."""
    program = (
        "import os, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from pyqmail.launch import load_bundle\n"
        "load_bundle(sys.argv[2])\n"
        "assert callable(__import__(sys.argv[2], fromlist=['main']).main)\n"
        "print(*[name for name, module in sys.modules.items() if module.__spec__ and name[:8] == 'pyqmail.'])\n"
        "import pyqmail.build, pyqmail.intake.dsn_options\n"  # a file of a package in the bundle, too
        "assert pyqmail.build.HOME == os.path.dirname(os.path.dirname(sys.argv[1]))\n"
    )
    found = []
    for name in sorted(BUNDLED):
        done = subprocess.run([PYTHON, "-ISB", "-c", program, library, name], capture_output=True, text=True)
        assert done.stderr == ""
        found.append(done.stdout)
    return found


@needs_root
def test_what_starts_once_per_message_reads_one_file_of_modules(installed: Path) -> None:
    (library,) = (installed / "lib").glob("pyqmail-*")
    for others in run_bundled(library):
        assert others.split() == ["pyqmail.launch"]


@needs_root
def test_what_was_compiled_for_another_python_is_left_alone(installed: Path, tmp_path: Path) -> None:
    (library,) = (installed / "lib").glob("pyqmail-*")
    copy = tmp_path / "lib" / library.name
    shutil.copytree(library, copy)
    (copy / "pyqmail/build.py").write_text(build_text(str(tmp_path), "other"))
    for cache in copy.rglob("__pycache__"):  # an interpreter looks for its own names there, and has none yet
        shutil.rmtree(cache)
    for path in (copy / "pyqmail" / BUNDLES).iterdir():
        path.write_bytes(b"\xff\xff\r\n" + path.read_bytes()[4:])
    for name, others in zip(sorted(BUNDLED), run_bundled(copy), strict=True):
        assert name in others.split()


@needs_root
def test_every_qmail_user_can_start_the_programs(installed: Path) -> None:
    for user in ("qmaild", "qmailq", "qmailr", "qmails", "qmailp", "nobody"):
        entry = pwd.getpwnam(user)
        result = subprocess.run(
            [installed / "bin" / "qmail-clean"],
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={},
        )
        assert b"ModuleNotFound" not in result.stderr and b"Permission denied: '" not in result.stderr
        assert result.returncode in (0, 111)


@needs_root
def test_check_reports_each_fault_and_changes_nothing(installed: Path) -> None:
    trouble = installed / "queue" / "lock" / "trigger"
    sendmail = installed / "bin" / "sendmail"
    text = sendmail.read_bytes()
    try:
        os.chown(trouble, 0, -1)
        sendmail.chmod(0o700)
        (installed / "doc" / "odd").write_text("")
        (installed / "doc" / "odd").chmod(0o4755)
        (installed / "boot" / "home").unlink()
        sendmail.write_bytes(text + b"#")
        before = snapshot(installed)
        result = setup(installed, "--check")
        assert snapshot(installed) == before
    finally:
        os.chown(trouble, pwd.getpwnam("qmails").pw_uid, -1)
        (installed / "doc" / "odd").unlink()
    assert result.returncode == 1
    assert [line.removeprefix(f"qmail-setup: warning: {installed}/") for line in result.stdout.splitlines()] == [
        "bin/sendmail has wrong permissions",
        "bin/sendmail has wrong content",
        "boot/home does not exist",
        "queue/lock/trigger has wrong owner",
        "doc/odd has a setuid or setgid bit",
    ]
    assert setup(installed).returncode == 0
    assert setup(installed, "--check").returncode == 0


@needs_root
def test_an_existing_queue_and_the_admins_files_are_left_as_they_are(installed: Path) -> None:
    (installed / "queue/bounce").chmod(0o750)
    (installed / "queue/mess/3/26").write_text("a message")
    (installed / "rc").write_text("#!/bin/sh\n# mine\n")
    before = snapshot(installed / "queue")
    try:
        assert setup(installed).returncode == 0
        assert snapshot(installed / "queue") == before
        assert (installed / "rc").read_text() == "#!/bin/sh\n# mine\n"
    finally:
        (installed / "queue/bounce").chmod(0o700)
        (installed / "queue/mess/3/26").unlink()


@needs_root
@pytest.mark.contract("queue 1.1")
def test_the_split_of_an_existing_queue_is_recognised(tmp_path: Path) -> None:
    home = tmp_path / "other"
    (home / "control").mkdir(parents=True)
    (home / "control" / "conf-split").write_text("5\n")
    assert setup(home).returncode == 0
    (home / "control" / "conf-split").unlink()
    assert setup(home).returncode == 0
    assert (home / "control" / "conf-split").read_text() == "5\n"
    assert setup(home, "--check").returncode == 0


@needs_root
def test_destdir_stages_a_tree_that_names_the_final_home(tmp_path: Path) -> None:
    assert setup(Path("/opt/mail"), DESTDIR=str(tmp_path)).returncode == 0
    staged = tmp_path / "opt" / "mail"
    assert "/opt/mail/lib/pyqmail-" in (staged / "bin" / "qmail-queue").read_text()
    assert str(tmp_path) not in (staged / "rc").read_text() + (staged / "bin" / "qmail-queue").read_text()
    assert setup(Path("/opt/mail"), "--check", DESTDIR=str(tmp_path)).returncode == 0


@pytest.mark.parametrize("home", ["relative", "/", "/a:b", "/a\nb"], ids=["relative", "root", "a colon", "a newline"])
def test_a_home_that_could_not_work_is_refused_in_one_line(home: str) -> None:
    result = setup(Path("/nowhere"), "--check", "--home", home)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "absolute path" in result.stderr


def test_a_single_user_tree_needs_no_privilege_and_is_never_roots() -> None:
    base = Path(tempfile.mkdtemp(prefix="pyqmail-"))
    try:
        base.chmod(0o755)
        options: dict[str, object] = {}
        if os.geteuid() == 0:
            assert setup(base / "qmail", "--single-user").returncode == 1
            entry = pwd.getpwnam("nobody")
            os.chown(base, entry.pw_uid, entry.pw_gid)
            options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        reach = setup_copy(base)
        command = [str(reach / "bin" / "qmail-setup"), "--single-user", "--me", "mx.example.test"]
        environ = {"PATH": os.environ["PATH"], "QMAIL_HOME": str(base / "qmail")}
        for words in (command, command, [*command[:1], "--check"]):
            result = subprocess.run(words, env=environ, capture_output=True, text=True, cwd="/", **options)  # type: ignore[call-overload]
            assert (result.returncode, result.stdout) == (0, ""), result.stderr
        home = base / "qmail"
        assert len({line for line in (home / "control/conf-users").read_text().split()}) == 1
        assert (home / "users" / "cdb").stat().st_size > 2048
        assert (home / "control" / "me").read_text() == "mx.example.test\n"
        assert (home / "control" / "defaultdomain").read_text() == "example.test\n"
    finally:
        shutil.rmtree(base)


def setup_copy(base: Path) -> Path:
    """A copy of the checkout that everybody can read."""
    copy = base / "checkout"
    for name in ("pyqmail", "bin", ".deps"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
    return copy


def test_boot_scripts_name_their_instructions_and_empty_the_environment() -> None:
    assert sorted(tree.boot_scripts()) == sorted(
        name + suffix for name in ("home", "proc", "binm1", "binm2", "binm3") for suffix in ("", "+df")
    )
    script = tree.start_script("/var/qmail", "|dot-forward .forward\n|preline procmail")
    assert b"exec env - PATH=/var/qmail/bin:" in script
    assert b"qmail-start '|dot-forward .forward\n|preline procmail' splogger qmail\n" in script


@pytest.mark.parametrize(("mode", "wanted"), [(0o711, 0o755), (0o700, 0o700), (0o755, 0o755)])
def test_a_script_is_readable_wherever_it_is_executable(mode: int, wanted: int) -> None:
    assert tree.readable(mode) == wanted


@needs_root
@pytest.mark.contract("queue 2.12", "queue 2.13", "queue 4.1", "queue 4.4")
def test_a_message_in_the_installed_queue_has_the_owners_and_names_of_state_four(installed: Path) -> None:
    queue = installed / "queue"
    message, envelope = installed / "message", installed / "envelope"
    message.write_bytes(b"Subject: first\n\nbody\n")
    envelope.write_bytes(b"Fann@example.test\0Tbob@example.test\0\0")
    assert not [path for part in ("mess", "todo", "intd") for path in (queue / part).rglob("*") if path.is_file()]
    with message.open("rb") as data, envelope.open("rb") as addresses:
        command = [installed / "bin" / "qmail-queue"]
        result = subprocess.run(command, stdin=data, stdout=addresses, env={}, capture_output=False)
    message.unlink()
    envelope.unlink()
    assert result.returncode == 0
    (mess,) = [path for path in (queue / "mess").rglob("*") if path.is_file()]
    status = mess.stat()
    try:
        assert mess == queue / "mess" / str(status.st_ino % 23) / str(status.st_ino)
        assert (pwd.getpwuid(status.st_uid).pw_name, stat.S_IMODE(status.st_mode)) == ("qmailq", 0o644)
        todo, intd = (queue / part / mess.name for part in ("todo", "intd"))
        assert todo.stat().st_ino != status.st_ino
        assert not intd.exists() or intd.samefile(todo)
        assert (stat.S_IMODE(todo.stat().st_mode), pwd.getpwuid(todo.stat().st_uid).pw_name) == (0o644, "qmailq")
        assert list((queue / "pid").iterdir()) == []
        assert not (queue / "info" / str(status.st_ino % 23) / mess.name).exists()
    finally:
        for part in ("todo", "intd"):
            (queue / part / mess.name).unlink(missing_ok=True)
        mess.unlink()


@needs_root
def test_a_new_queue_is_spread_where_the_filesystem_knows_how(installed: Path) -> None:
    place = subprocess.run(["stat", "-f", "-c", "%T", str(installed)], capture_output=True, text=True, check=True)
    folders = [installed / "queue/mess"]
    if (installed / "queue/pyqmail/drafts").exists():
        folders.append(installed / "queue/pyqmail/drafts")
    if place.stdout.strip() != "ext2/ext3":
        assert [stat.S_ISDIR(os.stat(folder).st_mode) for folder in folders] == [True]  # and that is all there is to it
        return
    shown = subprocess.run(["lsattr", "-d", *folders], capture_output=True, text=True, check=True)
    assert ["T" in line.split()[0] for line in shown.stdout.splitlines()] == [True] * len(folders)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("there", ["no queue", "a queue of before"])
def test_drafts_have_places_of_their_own_where_there_is_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kept: bool, there: str
) -> None:
    home, place = tmp_path / "qmail", "queue/pyqmail/drafts"
    (home / "control").mkdir(parents=True)
    target = Target(str(home), home, PYTHON, single_user=False, may_chown=False)
    if there == "a queue of before":
        monkeypatch.setattr(installing, "keeps_no_journal", lambda _: False)
        installing.install_queue(target, None)
        assert not (home / place).exists()
    monkeypatch.setattr(installing, "keeps_no_journal", lambda _: kept)
    installing.install_queue(target, None)
    assert (home / place).exists() is kept
    assert not kept or sorted(os.listdir(home / place)) == sorted(map(str, range(DRAFTS)))
    assert len(os.listdir(home / "queue/mess")) == 23


def test_an_installed_queue_has_them_where_its_filesystem_says_so_and_the_check_looks_at_them(installed: Path) -> None:
    drafts = installed / "queue/pyqmail/drafts"
    assert drafts.exists() is installing.keeps_no_journal(installed / "queue")
    if drafts.exists():
        drafts.chmod(0o755)
        try:
            assert f"{drafts} has wrong permissions" in setup(installed, "--check").stdout
        finally:
            drafts.chmod(0o700)


@pytest.mark.parametrize(
    ("options", "without"),
    [("rw\nbarrier\ndelalloc\n", True), ("rw\nbarrier\ndata=ordered\n", False), (None, False)],
)
def test_a_journal_is_known_by_the_options_of_the_mounted_filesystem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str | None, *, without: bool
) -> None:
    if options is not None:
        (tmp_path / "disk1").mkdir()
        (tmp_path / "disk1/options").write_text(options)
    monkeypatch.setattr(installing, "EXT4", str(tmp_path))
    monkeypatch.setattr(os, "readlink", lambda _: "../../devices/block/disk/disk1")
    assert installing.keeps_no_journal(tmp_path) is without
