"""Wheels by value: which fit, which are whole, and what unpacking them may write."""

import base64
import hashlib
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyqmail.admin import modules
from pyqmail.admin.modules import copy_modules
from pyqmail.admin.target import Target
from pyqmail.admin.wheels import Interpreter, WheelError, digest, find_python, fits, interpreter_of, select, unpack
from pyqmail.dependencies import Requirement

DEBIAN_12, DEBIAN_13 = Interpreter((3, 11), "x86_64"), Interpreter((3, 13), "x86_64")


@pytest.mark.parametrize(
    ("file", "serves"),
    [
        ("dnspython-2.9.2-py3-none-any.whl", {DEBIAN_12, DEBIAN_13}),
        ("pamela-1.2.0-py2.py3-none-any.whl", {DEBIAN_12, DEBIAN_13}),
        ("a-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", {DEBIAN_12}),
        ("a-1-cp313-cp313-manylinux_2_28_x86_64.whl", {DEBIAN_13}),
        ("a-1-cp39-abi3-manylinux_2_28_x86_64.whl", {DEBIAN_12, DEBIAN_13}),
        ("a-1-cp312-abi3-manylinux_2_28_x86_64.whl", {DEBIAN_13}),
        ("a-1-cp313-cp313t-manylinux_2_28_x86_64.whl", set()),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", set()),
        ("a-1-cp311-cp311-manylinux_2_28_aarch64.whl", set()),
        ("a-1-cp311-cp311-manylinux_2_39_x86_64.whl", set()),
        ("a-1-cp311-cp311-macosx_11_0_x86_64.whl", set()),
        ("a-1-py2-none-any.whl", set()),
        ("a-1-2-py3-none-any.whl", {DEBIAN_12, DEBIAN_13}),
    ],
)
def test_which_python_a_wheel_is_for(file: str, serves: set[Interpreter]) -> None:
    assert {python for python in (DEBIAN_12, DEBIAN_13) if fits(file, python)} == serves


def wheel(directory: Path, members: dict[str, str], name: str = "probe-1.0-py3-none-any.whl") -> Path:
    """A wheel with these members."""
    path = directory / name
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return path


def locked(*paths: Path) -> Requirement:
    """The lock's entry for wheels of ``probe``."""
    item = Requirement("probe", "1.0", None, ("base",))
    item.hashes = {digest(path) for path in paths}
    return item


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"x = 1", b"x = 2"))


@pytest.mark.parametrize("harm", [cut_short, changed])
def test_a_damaged_wheel_is_named_and_nothing_is_taken_from_it(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = wheel(tmp_path, {"probe.py": "x = 1"})
    item = locked(path)
    assert select(tmp_path, [item], DEBIAN_12) == [path]
    harm(path)
    with pytest.raises(WheelError, match=f"{path} is damaged or not what the lock names: wrong hash"):
        select(tmp_path, [item], DEBIAN_12)


def test_a_missing_wheel_is_named_with_the_python_it_is_for(tmp_path: Path) -> None:
    item = locked(wheel(tmp_path, {"probe.py": ""}, "probe-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"))
    with pytest.raises(WheelError, match=r"no wheel of probe 1.0 for Python 3.13 on x86_64"):
        select(tmp_path, [item], DEBIAN_13)


def test_unpacking_takes_modules_and_leaves_scripts(tmp_path: Path) -> None:
    members = {
        "probe.py": "x = 1",
        "probe-1.0.data/purelib/more/inside.py": "y = 2",
        "probe-1.0.data/scripts/probe": "#!/bin/sh",
        "probe-1.0.data/data/etc/probe.conf": "",
        "probe-1.0.dist-info/METADATA": "Name: probe",
    }
    unpack(wheel(tmp_path, members), tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"probe.py", "more/inside.py", "probe-1.0.dist-info/METADATA"}


@pytest.mark.parametrize("member", ["../outside.py", "/outside.py", "a/../../outside.py", "p.data/purelib/../../o.py"])
def test_unpacking_writes_nowhere_else(tmp_path: Path, member: str) -> None:
    path = wheel(tmp_path, {member: "x = 1"})
    with pytest.raises(WheelError, match="is no place for a module"):
        unpack(path, tmp_path / "out")
    assert not list(tmp_path.rglob("o*.py"))


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("probe")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "probe-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(entry, "/etc")
    with pytest.raises(WheelError, match="is no place for a module"):
        unpack(tmp_path / "probe-1.0-py3-none-any.whl", tmp_path / "out")


def installed(directory: Path, version: str = "1.0") -> Path:
    """Modules as an installation leaves them, with a list of their hashes."""
    info = directory / f"probe-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: probe\nVersion: {version}\n")
    (directory / "probe.py").write_text("x = 1")
    value = base64.urlsafe_b64encode(hashlib.sha256(b"x = 1").digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"probe.py,sha256={value},5\n")
    return directory / "probe.py"


def test_modules_that_were_copied_by_halves_are_not_copied_on(tmp_path: Path) -> None:
    module = installed(tmp_path / "there")
    item = Requirement("probe", "1.0", None, ("base",))
    (tmp_path / "out").mkdir()
    assert copy_modules([str(tmp_path / "there")], tmp_path / "out", [item]) is None
    assert (tmp_path / "out/probe.py").read_text() == "x = 1"
    module.write_text("x =")
    assert copy_modules([str(tmp_path / "there")], tmp_path / "out", [item]) == "probe 1.0 undamaged (probe.py)"
    module.unlink()
    assert copy_modules([str(tmp_path / "there")], tmp_path / "out", [item]) == "probe 1.0 undamaged (probe.py)"


def test_modules_of_another_version_are_not_taken(tmp_path: Path) -> None:
    installed(tmp_path / "there", "1.1")
    item = Requirement("probe", "1.0", None, ("base",))
    assert copy_modules([str(tmp_path / "there")], tmp_path, [item]) == "probe 1.0"


def interpreter(path: Path, version: str) -> str:
    """A program that says it is that Python."""
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


def test_a_newer_python_is_found_beside_an_old_one(tmp_path: Path) -> None:
    old, new = interpreter(tmp_path / "python3", "3 9"), interpreter(tmp_path / "python3.12", "3 12")
    assert find_python([old, str(tmp_path / "missing"), new]) == new
    assert find_python(["/usr/bin/python3", new]) == "/usr/bin/python3"
    with pytest.raises(WheelError, match="none is a Python 3.11, 3.12, 3.13, 3.14; name one with --python"):
        find_python([old, interpreter(tmp_path / "python3.15", "3 15")])


def test_an_interpreter_that_does_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match="does not run"):
        interpreter_of(str(tmp_path / "python"))


def test_what_has_no_wheel_is_linked_by_the_setup_after_its_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian, out = tmp_path / "debian", tmp_path / "out"
    for place in (debian, out):
        place.mkdir()
    monkeypatch.setattr(modules, "DEBIAN", debian)
    target = Target("/var/qmail", tmp_path, sys.executable, False, True, groups=("accounts",))
    other = replace(target, groups=())
    before = target.library, other.library
    (debian / "_ldap.cpython-311-x86_64-linux-gnu.so").touch()
    for name in ("ldap", "ldapurl.py", "ldif.py", "pyasn1"):
        (debian / name).touch()
    assert (target.library, other.library) == before  # not all of it
    (debian / "pyasn1_modules").mkdir()
    assert target.library != before[0] and other.library == before[1]
    modules.link_debian_only(out, ["accounts"])
    assert {path.name for path in out.iterdir()} == {path.name for path in debian.iterdir()}
