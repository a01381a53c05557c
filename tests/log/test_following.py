"""Logs that grow: the journal."""

from pathlib import Path

import pytest

from pyqmail.log.following import GrowingJournal
from tests.waiting import wait_for


def test_journalctl_has_nothing_to_tell_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journalctl = tmp_path / "journalctl"
    journalctl.write_text('#!/bin/sh\necho "told: [$NOTIFY_SOCKET]"\nexec sleep 60\n')
    journalctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    journal = GrowingJournal("qmail-*")
    said = bytearray()

    def heard() -> bool:
        said.extend(journal.read())
        return b"\n" in said

    try:
        wait_for(heard, "a line")
        assert said == b"told: []\n"
    finally:
        journal.close()
