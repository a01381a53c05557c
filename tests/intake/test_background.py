"""A bounce that qmail-queued never hears of is over at once, to be tried again: nobody answers for it."""

import errno
import os
import socket
from pathlib import Path

import pytest

from pyqmail.intake import client
from pyqmail.intake.background import NOT_STARTED, BackgroundInjections
from pyqmail.spool.layout import Layout
from pyqmail.system.loop import Loop


def test_a_request_that_was_not_sent_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    layout, loop, answers = Layout(str(tmp_path), 23), Loop(), []
    monkeypatch.setattr(client, "hand_over", lambda *_, **__: False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as service:
        service.bind(layout.run_socket)
        service.listen()
        before = os.listdir("/proc/self/fd")
        injections = BackgroundInjections(loop, layout, {})
        injections.inject(
            iter([b"text"]), b"", b"joe@a.example", lambda status, number: answers.append((status, number))
        )
        assert answers == [(NOT_STARTED, 0)] and injections.pending == 0
        assert os.listdir("/proc/self/fd") == before


def test_without_a_socket_it_is_over_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    answers = []
    monkeypatch.setattr(socket, "socket", refuse)
    injections = BackgroundInjections(Loop(), Layout(str(tmp_path), 23), {})
    injections.inject(iter([b"text"]), b"", b"joe@a.example", lambda status, number: answers.append((status, number)))
    assert answers == [(NOT_STARTED, 0)] and injections.pending == 0
