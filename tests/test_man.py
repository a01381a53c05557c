"""Every program and file has a manual page, sound by mandoc, in our own words."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pyqmail.admin.catalogue import CHECKOUT, PROGRAMS
from pyqmail.admin.control_files import CONTROL_FILES

ROOT = Path(__file__).resolve().parents[1]
MAN = ROOT / "pyqmail" / "man"
PAGES = sorted(MAN.glob("*.[1578]"))
# Sections are the original's: pages of programs in 1 and 8, of files in 5, of everything else in 7.
FILES_AND_SUBJECTS = {
    "qmail-control.5", "qmail-log.5", "dot-qmail.5", "maildir.5", "mbox.5", "envelopes.5", "addresses.5",
    "qmail-header.5", "qmail-users.5", "tcp-environ.5", "qmail.7", "qmail-limits.7", "forgeries.7",
}  # fmt: skip
NOT_PROGRAMS = {"quickstart", "run-tests"}  # the checkout's own, explained in README.md


def test_every_program_in_bin_has_a_page_of_its_own() -> None:
    names = {path.name for path in (ROOT / "bin").iterdir()} - NOT_PROGRAMS
    assert names == {*PROGRAMS, *CHECKOUT}
    pages = {path.stem for path in PAGES if path.suffix in (".1", ".8")}
    assert names - pages == set()
    assert pages - names == {"qmail-command"}  # what .qmail programs get, in section 8 as in the original


def test_every_file_and_subject_has_a_page() -> None:
    assert FILES_AND_SUBJECTS - {path.name for path in PAGES} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_finds_nothing_wrong(page: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", page], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_says_what_it_is_and_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    title = re.search(r"^\.Dt (\S+) (\d)$", text, re.M)
    assert title is not None and title.groups() == (page.stem.upper(), page.suffix[1:])
    assert re.search(rf"^\.Nm {re.escape(page.stem)}( ,)?$", text, re.M)
    own = {(path.stem, path.suffix[1:]) for path in PAGES}
    links = set(re.findall(r"^\.Xr (\S+) (\d)", text, re.M)) | set(re.findall(r" Xr (\S+) (\d)", text))
    assert {link for link in links - own if any(name == link[0] for name, _ in own)} == set()


def test_qmail_control_names_every_file_of_the_table() -> None:
    text = (MAN / "qmail-control.5").read_text()
    missing = [
        entry.name for entry in CONTROL_FILES if not re.search(rf"^\.It (Pa )?{re.escape(entry.name)}$", text, re.M)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_differs_from_qmail_stands_in_one_section_of_that_name(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"(?im)^(?:\.Sh )?differences? from (?:the original|qmail)", text) == []
    assert re.search(r"(?im)^this differs from", text) is None
    assert text.count("\n.Sh DIFFERS FROM QMAIL\n") <= 1
