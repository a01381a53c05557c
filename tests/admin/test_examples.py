"""The examples to copy say what they mean to the programs that read them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pyqmail.control import parse_lines, parse_mapping

EXAMPLES = Path(__file__).resolve().parents[2] / "control-examples"
LISTS = {"locals", "rcpthosts", "virtualdomains", "smtproutes", "badmailfrom"}
SCRIPTS = [*EXAMPLES.glob("rc.*"), *EXAMPLES.glob("service/**/run")]


@pytest.mark.parametrize("path", sorted((EXAMPLES / "control").iterdir()), ids=lambda path: path.name)
def test_only_list_files_hold_comments(path: Path) -> None:
    data = path.read_bytes()
    assert data.endswith(b"\n")
    if path.name in LISTS:
        assert b"#" not in b"".join(parse_lines(data))
    else:
        assert data.count(b"\n") == 1 and b"#" not in data


def test_the_example_virtual_domain_is_a_mapping() -> None:
    assert parse_mapping((EXAMPLES / "control" / "virtualdomains").read_bytes()) == {b"shop.example": b"alias-shop"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_scripts_are_executable_and_sound(path: Path) -> None:
    assert path.stat().st_mode & 0o111 == 0o111
    subprocess.run(["sh", "-n", path], check=True)


def test_each_service_has_a_log() -> None:
    names = {path.name for path in (EXAMPLES / "service").iterdir()}
    assert names == {"qmail-queued", "qmail-send", "qmail-smtpd"}
    assert all((EXAMPLES / "service" / name / "log" / "run").exists() for name in names)


def test_tcp_smtp_compiles_with_debians_tcprules(tmp_path: Path) -> None:
    program = shutil.which("tcprules")
    if program is None:
        pytest.skip("ucspi-tcp is not installed")
    with (EXAMPLES / "tcp.smtp").open() as rules:
        subprocess.run([program, tmp_path / "cdb", tmp_path / "tmp"], stdin=rules, check=True)
    assert (tmp_path / "cdb").stat().st_size > 2048
