"""Recipients not done, and the done mark."""

from pathlib import Path

import pytest

from pyqmail.spool.channel import RecipientFile, UnknownMark, mark_done


@pytest.mark.contract("queue 3.4")
def test_a_mark_changes_one_byte_and_the_next_pass_skips_it(tmp_path: Path) -> None:
    path = tmp_path / "4"
    path.write_bytes(b"Ta\0Tb\0")
    inode = path.stat().st_ino
    mark_done(str(path), (0,))
    assert path.stat().st_ino == inode
    assert path.read_bytes() == b"Da\0Tb\0"
    recipients = RecipientFile(str(path))
    assert [recipients.next_not_done(), recipients.next_not_done()] == [(3, b"b"), None]
    recipients.close()


def test_an_unknown_mark_ends_the_pass(tmp_path: Path) -> None:
    path = tmp_path / "4"
    path.write_bytes(b"Xa\0")
    recipients = RecipientFile(str(path))
    with pytest.raises(UnknownMark):
        recipients.next_not_done()
    recipients.close()
