"""qmail-setup where something is in its way: one clear line, nothing half installed, and the next run repairs it."""

import fcntl
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pyqmail.dependencies import chosen, read_lock
from pyqmail.launch import launcher_text
from tests.public_directory import public_directory

ROOT = Path(__file__).resolve().parents[2]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that everybody may enter, with a copy of the sources that has no modules beside it."""
    with public_directory() as base:
        ignored = shutil.ignore_patterns("__pycache__", ".deps", ".git", "run")
        for name in ("bin", "pyqmail"):
            shutil.copytree(ROOT / name, base / "sources" / name, ignore=ignored)
        for name in ("README.md", "INSTALL.md", "CHANGELOG.md", "LICENSE"):
            shutil.copy(ROOT / name, base / "sources")
        yield base


@pytest.fixture(scope="module")
def wheels(place: Path) -> Path:
    """A wheelhouse as an admin makes it."""
    done = setup(place, "--download", place / "wheels")
    assert done.returncode == 0, done.stderr
    return place / "wheels"


@pytest.fixture
def home(place: Path) -> Iterator[Path]:
    """Where an unprivileged tree can be made."""
    parent = place / "trees"
    parent.mkdir()
    parent.chmod(0o777)
    yield parent / "tree"
    shutil.rmtree(parent)


def setup(place: Path, *words: object, before: Sequence[str] = (), **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the copy's qmail-setup to its end."""
    command = [*before, str(place / "sources/bin/qmail-setup"), *map(str, words)]
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, cwd="/", timeout=120)


def tree(place: Path, home: Path, *words: object, before: Sequence[str] = (), **environ: str):  # type: ignore[no-untyped-def]
    """Make an unprivileged tree."""
    words = ("--single-user", "--home", home, "--me", "mx.example.test", *words)
    return setup(place, *words, before=[*before, *NOBODY], **environ)


def one_line(done: "subprocess.CompletedProcess[str]", text: str) -> None:
    """It failed, and said why in one line."""
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert text in done.stderr


def libraries(home: Path) -> list[str]:
    """What is in lib/, half-made things included."""
    return sorted(path.name for path in (home / "lib").iterdir())


def test_a_wheelhouse_serves_both_releases_of_debian(wheels: Path) -> None:
    names = [path.name for path in wheels.iterdir()]
    for item in chosen(read_lock(), [], None):
        assert any(name.startswith(f"{item.name.replace('-', '_')}-{item.version}-") for name in names), item.name
    assert any("cp311" in name for name in names) and any("cp313" in name for name in names)
    assert all(name.endswith(".whl") for name in names)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
def test_it_installs_without_any_network(place: Path, wheels: Path, home: Path) -> None:
    done = tree(place, home, "--dependencies", wheels, before=["unshare", "--net"])
    assert done.returncode == 0, done.stderr
    assert tree(place, home, "--check").stdout == ""
    asked = subprocess.run([home / "bin/qmail-showctl"], env={"QMAIL_HOME": str(home)}, capture_output=True)
    assert asked.returncode == 0 and b"mx.example.test" in asked.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
def test_no_network_at_all_is_one_line(place: Path, home: Path) -> None:
    done = tree(
        place, home, before=["unshare", "--net"], PIP_RETRIES="0", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull
    )
    one_line(done, "pip cannot fetch the dependencies (is there a network?)")
    assert libraries(home) == []


def test_what_the_index_has_must_be_what_the_lock_names(place: Path, wheels: Path, home: Path) -> None:
    forged = shutil.copytree(wheels, home.parent / "forged")
    path = next(forged.glob("dnspython*"))
    path.write_bytes(path.read_bytes() + b"\0")
    done = tree(place, home, PIP_FIND_LINKS=str(forged), **NO_INDEX)
    one_line(done, "is not what the lock names: wrong hash")
    assert "dnspython" in done.stderr
    assert libraries(home) == []
    assert tree(place, home, PIP_FIND_LINKS=str(wheels), **NO_INDEX).returncode == 0
    assert tree(place, home, "--check").stdout == ""


def test_a_wheel_that_was_written_by_halves_is_named(place: Path, wheels: Path, home: Path) -> None:
    half = shutil.copytree(wheels, home.parent / "half")
    path = next(half.glob("pure_cdb*"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    one_line(tree(place, home, "--dependencies", half), f"{path} is damaged or not what the lock names: wrong hash")
    assert libraries(home) == []
    path.write_bytes(whole)
    assert tree(place, home, "--dependencies", half).returncode == 0


def test_what_is_not_in_the_wheelhouse_is_named(place: Path, wheels: Path, home: Path) -> None:
    less = shutil.copytree(wheels, home.parent / "less")
    next(less.glob("pamela*")).unlink()
    one_line(tree(place, home, "--dependencies", less), "has no wheel of pamela")
    one_line(tree(place, home, "--dependencies", wheels, "--with", "accounts"), "has no wheel of psycopg")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small file system")
@pytest.mark.parametrize("kilobytes", [400, 2000, 5000, 8000])
def test_a_full_disk_is_one_line_and_the_next_run_completes(
    place: Path, wheels: Path, home: Path, kilobytes: int
) -> None:
    script = (
        f"mount -t tmpfs -o mode=777,size={kilobytes}k tmpfs {home.parent} && shift\n"
        '"$@" 2>/dev/stderr >/dev/null; first=$?\n'
        f"ls {home}/lib >{place}/left 2>/dev/null || : >{place}/left\n"
        f"mount -o remount,size=100m {home.parent}\n"
        '"$@" || exit 50\n'
        f'"$@" --check >{place}/check; exit $first\n'
    )
    before = ["unshare", "--mount", "sh", "-c", script, "sh", "-"]
    done = tree(place, home, "--dependencies", wheels, before=before)
    one_line(done, "")
    assert "No space left" in done.stderr or "disk full" in done.stderr, done.stderr
    assert not [name for name in (place / "left").read_text().split() if name.startswith(".new-")]
    assert (place / "check").read_text() == ""


def test_the_second_of_two_at_once_says_so(place: Path, wheels: Path, home: Path) -> None:
    assert tree(place, home, "--dependencies", wheels).returncode == 0
    lib = os.open(home / "lib", os.O_RDONLY)
    try:
        fcntl.flock(lib, fcntl.LOCK_EX)
        one_line(tree(place, home, "--dependencies", wheels), "another installation is at work")
    finally:
        os.close(lib)
    assert tree(place, home, "--dependencies", wheels).returncode == 0


def test_one_that_was_killed_is_completed_by_the_next(place: Path, wheels: Path, home: Path) -> None:
    words = [*NOBODY, place / "sources/bin/qmail-setup", "--single-user", "--home", home, "--dependencies", wheels]
    for stage in ("lib/.new-*", "lib/.new-*/*/dns/resolver.py", "lib/.new-*/*/pyqmail/build.py", "bin/qmail-send"):
        with subprocess.Popen([str(word) for word in words], cwd="/", start_new_session=True) as process:
            deadline = time.monotonic() + 60
            while not list(home.glob(stage)) and process.poll() is None:
                assert time.monotonic() < deadline
                select.select([], [], [], 0.001)
            with suppress(ProcessLookupError):  # it has come to its end
                os.killpg(process.pid, signal.SIGKILL)
    assert tree(place, home, "--dependencies", wheels).returncode == 0
    assert tree(place, home, "--check").stdout == ""
    assert [name for name in libraries(home) if not name.startswith("pyqmail-")] == ["groups"] * (
        home / "lib/groups"
    ).exists()


def test_a_download_that_was_killed_leaves_only_whole_wheels(place: Path, wheels: Path, home: Path) -> None:
    target = home.parent / "again"
    words = [str(place / "sources/bin/qmail-setup"), "--download", str(target)]
    environ = os.environ | NO_INDEX | {"PIP_FIND_LINKS": str(wheels)}
    with subprocess.Popen(words, env=environ, cwd="/", start_new_session=True) as process:
        while not list(target.glob("*")) and process.poll() is None:
            select.select([], [], [], 0.001)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for path in target.glob("*.whl"):
        assert path.read_bytes() == (wheels / path.name).read_bytes()
    assert subprocess.run(words, env=environ, cwd="/", stdout=subprocess.DEVNULL).returncode == 0
    assert {path.name for path in target.glob("*.whl")} == {path.name for path in wheels.iterdir()}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which becomes nobody")
def test_root_fetches_as_nobody(place: Path, home: Path) -> None:
    shown = home.parent / "who"
    python = home.parent / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *"-m pip "* | *.whl/pip*) id -u >>{shown} ;; esac\nexec /usr/bin/python3 "$@"\n'
    )
    python.chmod(0o755)
    shown.touch()
    shown.chmod(0o666)
    done = setup(place, "--modules", home.parent / "modules", "--python", python, PIP_FIND_LINKS=str(place / "wheels"))
    assert done.returncode == 0, done.stderr
    assert set(shown.read_text().split()) == {"65534"}
    assert (home.parent / "modules/dns").stat().st_uid == 0


def test_debians_own_packages_are_linked_to_and_used(place: Path, wheels: Path, home: Path) -> None:
    if not Path("/usr/lib/python3/dist-packages/dns").is_dir():
        pytest.skip("Debian's python3-dnspython is not installed")
    done = tree(place, home, "--system-packages", "--dependencies", wheels)
    assert done.returncode == 0, done.stderr
    (library,) = (home / "lib").glob("pyqmail-*")
    assert os.readlink(library / "dns") == "/usr/lib/python3/dist-packages/dns"
    assert not (library / "cdblib").is_symlink()  # Debian has none
    assert tree(place, home, "--check").stdout == ""
    program = (
        f"import sys; sys.path.insert(0, {str(library)!r})\n"
        "import pyqmail.protocol.dns, pyqmail.resolver, pyqmail.formats.cdb, pyqmail.admin.detached\n"
        "from pyqmail.system.process import _title_module\n"
        "assert _title_module() is not None\n"
    )
    used = subprocess.run(["/usr/bin/python3", "-IS", "-c", program], capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert tree(place, home, "--dependencies", wheels).returncode == 0  # the choice is remembered
    assert [path.name for path in (home / "lib").glob("pyqmail-*")] == [library.name]
    assert tree(place, home, "--no-system-packages", "--dependencies", wheels).returncode == 0
    assert tree(place, home, "--check").stdout == ""


def test_a_program_whose_group_is_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text("import valkey\n")
    launcher = tmp_path / "qmail-probe"
    text = launcher_text("probe", 111, "/usr/bin/python3", str(ROOT))
    launcher.write_text(
        text.replace("    from pyqmail", f"    sys.path.insert(0, {str(tmp_path)!r})\n    from pyqmail")
    )
    launcher.chmod(0o755)
    done = subprocess.run([launcher], capture_output=True, text=True)
    assert done.returncode == 111
    assert done.stderr == "qmail-probe: fatal: the module valkey is not installed: run qmail-setup --with cluster\n"
