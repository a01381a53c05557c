"""Files of users that have no end worth reading: a limit each, and never more memory than that."""

import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.failure import TemporaryFailure
from pyqmail.formats.bounce_text import format_failures_cut
from pyqmail.formats.cdb import Cdb, CdbCorrupt, write_cdb
from pyqmail.local.alias_list import read_list
from pyqmail.local.instructions import Arguments, read_instructions
from pyqmail.policy.classify import Routing
from pyqmail.send import bounce
from pyqmail.spool.layout import Layout
from pyqmail.spool.preprocess import LONG, SLICE, PreprocessTrouble, prepare_long
from pyqmail.system import files
from pyqmail.system.process import address_space, limit_memory
from tests.programs.sending import make_queue

SPARSE = 8 << 30
ROUTING = Routing(b"d", frozenset({b"here"}), frozenset(), {})
WORDS = (b"joe", b"/home", b"joe-big", b"-", b"big", b"here.test", b"", b"./Mailbox")


def sparse(path: Path, size: int = SPARSE, head: bytes = b"") -> Path:
    path.write_bytes(head)
    os.truncate(path, size)
    return path


def in_little_memory(act: Callable[[], None]) -> None:
    """Do ``act`` in a child that may take 192 MiB more than it has; the child's exception is ours."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            limit_memory(address_space() + (192 << 20))
            act()
            os.write(writer, b"returned")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(pid, 0)
    assert text == "returned"


def test_a_dot_qmail_without_end_defers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sparse(tmp_path / ".qmail-big").chmod(0o600)

    def act() -> None:
        with pytest.raises(TemporaryFailure, match="Unable to read .qmail-big"):
            read_instructions(Arguments(WORDS, describe=True), 0o002)

    in_little_memory(act)


def test_one_at_the_limit_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = b"&joe@b.test\n" * 100
    (tmp_path / ".qmail-big").write_bytes(text)
    assert read_instructions(Arguments(WORDS, describe=True), 0, len(text)).data == text
    with pytest.raises(TemporaryFailure):
        read_instructions(Arguments(WORDS, describe=True), 0, len(text) - 1)


@pytest.mark.parametrize("name", ["list.bin", "list"])
def test_a_list_without_end_is_an_error(tmp_path: Path, name: str) -> None:
    path = os.fsencode(sparse(tmp_path / name))

    def act() -> None:
        with pytest.raises(Exception, match="File too large"):
            read_list(path, {})

    in_little_memory(act)


def test_a_table_without_end_is_an_error(tmp_path: Path) -> None:
    path = str(sparse(tmp_path / "assign"))

    def act() -> None:
        with pytest.raises(OSError, match="File too large"):
            files.read_file(path, 64 << 20)

    in_little_memory(act)


def test_a_cdb_whose_record_is_large_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.cdb"
    write_cdb(str(path), [(b"key", b"data")])
    data = bytearray(path.read_bytes())
    data[2048 + 4 : 2048 + 8] = struct.pack("<L", 3 << 30)
    os.truncate(path, 0)
    path.write_bytes(data)
    os.truncate(path, 4 << 30)

    def act() -> None:
        with path.open("rb") as file, pytest.raises(CdbCorrupt):
            Cdb(file.fileno()).get(b"key")

    in_little_memory(act)


def test_a_cdb_with_a_full_table_is_not_searched_for_ever(tmp_path: Path) -> None:
    slots = 1 << 24  # all of them taken, by a hash that is not the key's
    path = tmp_path / "b.cdb"
    with path.open("wb") as file:
        file.write(struct.pack("<LL", 2048, slots) * 256)
        file.write(struct.pack("<LL", 1, 2048) * (1 << 20))
        file.truncate(2048 + 8 * slots)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with path.open("rb") as opened:
        try:
            Cdb(opened.fileno()).get(b"nobody")
        except CdbCorrupt:
            pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 5


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing but zeros"),
        pytest.param(b"u1\0p2\0Fa@b\0Tc@here\0", id="zeros after the recipients"),
        pytest.param(b"u1\0p2\0Fa@b\0T" + b"x" * (2 * LONG), id="a record without end"),
    ],
)
def test_an_envelope_without_end_stays_in_todo_with_a_line(tmp_path: Path, content: bytes) -> None:
    make_queue(tmp_path)
    layout = Layout(str(tmp_path), 3)
    Path(layout.mess(4)).write_bytes(b"x\n")
    sparse(Path(layout.todo(4)), head=content)
    logged: list[bytes] = []

    def attempt() -> None:
        slices = prepare_long(layout, 4, ROUTING, lambda event: logged.append(event.format()), lambda token: None)
        with pytest.raises(PreprocessTrouble) as caught:
            for _ in range(2 + 2 * LONG // SLICE):
                next(slices)
        assert caught.value.warning.format() == b"warning: unknown record type in todo/4"
        assert logged == [b"new msg 4"]

    in_little_memory(attempt)


def test_the_failures_in_a_bounce_are_cut_after_a_line_and_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "failures"
    path.write_bytes(b"<joe@b.test>:\nno\n\n" * 10)
    shown = b"".join(bounce._at_most(str(path), 40, format_failures_cut))
    assert shown == b"<joe@b.test>:\nno\n\n" * 2 + b"\n[Here the failures are cut: 36 of 180 bytes are shown.]\n\n"
    assert b"".join(bounce._at_most(str(path), 180, format_failures_cut)) == path.read_bytes()
