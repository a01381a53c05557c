"""One list of what is installed beside the package: everything else reads it, or quotes it word for word."""

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from pyqmail import dependencies
from pyqmail.dependencies import (
    PYTHONS,
    LockError,
    Requirement,
    chosen,
    groups_of,
    missing_module,
    parse_lock,
    read_lock,
)

ROOT = Path(__file__).resolve().parents[1]
HASH = "--hash=sha256:" + "0" * 64


def quoted(item: Requirement) -> str:
    """A requirement as pyproject.toml has it."""
    condition = f" ; python_version < '{item.before[0]}.{item.before[1]}'" if item.before else ""
    return f"{item.name}=={item.version}{condition}"


def test_pyproject_quotes_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = read_lock()
    assert project["dependencies"] == [quoted(item) for item in lock if "base" in item.groups]
    groups = {group for item in lock for group in item.groups} - {"base"}
    assert project["optional-dependencies"] == {
        group: [quoted(item) for item in lock if group in item.groups] for group in groups
    }


def test_what_builds_the_wheel_is_in_the_lock() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert set(build) <= {quoted(item) for item in read_lock()}


@pytest.mark.parametrize("file", ["bin/quickstart", "bin/run-tests", "bin/qmail-setup"])
def test_no_other_file_names_a_version_or_a_list_of_its_own(file: str) -> None:
    text = (ROOT / file).read_text()
    for item in read_lock():
        if "base" in item.groups and item.name != "lockfile":
            assert f"{item.name}==" not in text and not re.search(
                rf"(?<!python3-)(?<!packages/)\b{item.name}\b", text
            ), item.name


def test_the_installation_guide_names_what_every_installation_has() -> None:
    text = " ".join((ROOT / "INSTALL.md").read_text().split())
    listed = re.search(r"What it depends on \((.*?), by the versions", text)
    assert listed is not None
    base = [item.name for item in read_lock() if "base" in item.groups]
    assert sorted(re.split(r", | and ", listed[1])) == sorted(base)
    for group in groups_of(read_lock()):
        assert group in text


def test_every_python_has_the_same_versions_and_each_has_hashes() -> None:
    lock = read_lock()
    versions: dict[str, str] = {}
    for item in lock:
        assert versions.setdefault(item.name, item.version) == item.version
        assert item.hashes
    for python in PYTHONS:
        assert {item.name for item in chosen(lock, [], python)} >= {"dnspython", "pure-cdb", "setproctitle"}


def test_pip_reads_the_lock(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-I",
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-index",
        "--no-deps",
        "--require-hashes",
    ]
    done = subprocess.run([*words, "-r", dependencies.lock_path()], capture_output=True, text=True)
    assert "No matching distribution found" in done.stderr  # there is no index; the file itself was understood
    assert "nvalid" not in done.stderr


def test_the_lock_of_a_peer_has_the_same_form() -> None:
    assert "parsedmarc" in {item.name for item in read_lock(str(ROOT / "tests" / "parsedmarc.lock"))}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"dnspython==1 {HASH}\n", id="in no section"),
        pytest.param("# == base ==\ndnspython==1\n", id="without a hash"),
        pytest.param(f"# == base ==\ndnspython>=1 {HASH}\n", id="not pinned"),
        pytest.param(f"# == base ==\ndnspython @ https://host.example/x.whl {HASH}\n", id="from elsewhere"),
        pytest.param("# == base ==\n--index-url https://host.example/\n", id="an option"),
        pytest.param("# == base ==\ndnspython==1 --hash=md5:0\n", id="a weak hash"),
    ],
)
def test_what_is_not_pinned_is_refused(text: str) -> None:
    with pytest.raises(LockError):
        list(parse_lock(text))


def test_each_distribution_is_imported_by_the_name_that_is_known_here() -> None:
    lock = read_lock()
    for item in chosen(lock, groups_of(lock), sys.version_info[:2]):
        assert find_spec(item.module) is not None, item.name


def test_qmail_setup_itself_needs_nothing_but_python() -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pyqmail.admin.setup"
    done = subprocess.run(["/usr/bin/python3", "-ISB", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_missing_module_says_what_to_run() -> None:
    assert missing_module("psycopg.rows") == "qmail-setup --with accounts"
    assert missing_module("valkey") == "qmail-setup --with cluster"
    assert missing_module("dns.resolver") == "qmail-setup"
    assert missing_module("ldap") == "apt-get install python3-ldap, then qmail-setup --with accounts"
    assert missing_module("pytest") is None and missing_module("nonsense") is None
