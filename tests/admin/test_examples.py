"""The examples to copy say what they mean to the programs that read them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pyqmail.admin.check import find_trouble
from pyqmail.admin.control_files import BY_NAME, CONTROL_FILES, Form
from pyqmail.admin.limits import limits_in
from pyqmail.control import parse_line, parse_lines, parse_mapping

EXAMPLES = Path(__file__).resolve().parents[2] / "control-examples"
SCRIPTS = [*EXAMPLES.glob("rc.*"), *EXAMPLES.glob("service/**/run"), *EXAMPLES.glob("runit/**/run")]


def test_there_is_an_example_of_each_control_file() -> None:
    names = {
        entry.name for entry in CONTROL_FILES if entry.form not in (Form.CDB, Form.PEM, Form.SECRET, Form.DIRECTORY)
    }
    assert {path.name for path in (EXAMPLES / "control").iterdir()} == names


@pytest.mark.parametrize("path", sorted((EXAMPLES / "control").iterdir()), ids=lambda path: path.name)
def test_an_example_is_explained_and_the_explanation_is_no_value(path: Path) -> None:
    data = path.read_bytes()
    assert data.endswith(b"\n") and b"\n# " in b"\n" + data
    if BY_NAME[path.name].form in (Form.LIST, Form.MAP):
        assert b"#" not in b"".join(parse_lines(data))
    else:
        assert b"#" not in parse_line(data)


def test_the_check_is_content_with_the_examples(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "control", tmp_path / "control")
    subprocess.run([EXAMPLES.parent / "bin" / "qmail-newmrh"], env={"QMAIL_HOME": str(tmp_path)}, check=True)
    found = [line for line in find_trouble(str(tmp_path)) if line.startswith("control/")]
    assert found == []


def test_the_example_virtual_domain_is_a_mapping() -> None:
    assert parse_mapping((EXAMPLES / "control" / "virtualdomains").read_bytes()) == {b"shop.example": b"alias-shop"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_scripts_are_executable_and_sound(path: Path) -> None:
    assert path.stat().st_mode & 0o111 == 0o111
    subprocess.run(["sh", "-n", path], check=True)


@pytest.mark.parametrize("kind", ["service", "runit"])
def test_each_service_has_a_log(kind: str) -> None:
    names = {path.name for path in (EXAMPLES / kind).iterdir()}
    assert names == {
        "qmail-queued",
        "qmail-metrics",
        "qmail-send",
        "qmail-smtpd",
        "qmail-pop3d",
        "qmail-pop3s",
        "qmail-submission",
        "qmail-submissions",
    }
    assert all((EXAMPLES / kind / name / "log" / "run").exists() for name in names)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_no_memory_limit_is_one_that_python_does_not_survive(path: Path) -> None:
    assert all(size >= 64 << 20 for _, size in limits_in(path.read_text()))


def test_tcp_smtp_compiles_with_debians_tcprules(tmp_path: Path) -> None:
    program = shutil.which("tcprules")
    if program is None:
        pytest.skip("ucspi-tcp is not installed")
    with (EXAMPLES / "tcp.smtp").open() as rules:
        subprocess.run([program, tmp_path / "cdb", tmp_path / "tmp"], stdin=rules, check=True)
    assert (tmp_path / "cdb").stat().st_size > 2048
