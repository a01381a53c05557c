"""What qmail-send remembers of copies from one of its lives to the next."""

import socket
from pathlib import Path

from pyqmail.log.events import Event
from pyqmail.protocol import shadow
from pyqmail.send.shadow_link import ShadowLink
from pyqmail.spool.ended import read_ended
from pyqmail.spool.layout import Layout
from pyqmail.system.loop import Loop

FIRST, SECOND = b"1" * 32, b"2" * 32


def test_what_is_not_known_to_be_gone_is_told_again_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "queue/pyqmail").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    layout, said = Layout(str(tmp_path), 23), list[Event]()
    link = ShadowLink(Loop(), layout, said.append)
    link.ended(FIRST)
    link.ended(SECOND)
    link.save()
    assert read_ended(layout) == [FIRST, SECOND]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path) + shadow.SOCKET)
        listener.listen()
        loop = Loop()
        link = ShadowLink(loop, layout, said.append)
        with listener.accept()[0] as shadowd:
            assert shadow.parse_record(shadowd.recv(shadow.RECORD_MAX)) == [shadow.SERVE]
            assert shadow.parse_record(shadowd.recv(shadow.RECORD_MAX)) == [shadow.ENDED, FIRST, SECOND]
            shadowd.send(shadow.format_record(shadow.GONE, FIRST))
            loop.run_once()
            link.save()
            assert read_ended(layout) == [SECOND]
            shadowd.send(shadow.format_record(shadow.GONE, SECOND))
            loop.run_once()
            link.save()
        loop.run_once()  # it hears of the end, and closes
    assert not Path(layout.ended).exists() and said == []


def test_a_lease_that_is_heard_of_puts_off_the_end_of_what_runs(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path) + shadow.SOCKET)
        listener.listen()
        loop = Loop()
        link = ShadowLink(loop, Layout(str(tmp_path), 23), lambda _: None)
        heard: list[tuple[float, float]] = []
        link.fence.renewed = lambda *lease: heard.append(lease)  # type: ignore[method-assign]
        with listener.accept()[0] as shadowd:
            for words in (
                [shadow.LEASE, b"0"], [shadow.MARGIN, b"60"], [shadow.MARGIN, b"-1"], [shadow.MARGIN],
                [shadow.LEASE, b"1300"], [shadow.LEASE, b"1400", b"x"], [b"unknown", b"1"], [shadow.LEASE, b"1500"],
            ):  # fmt: skip
                shadowd.send(shadow.format_record(*words))
                loop.run_once()
            assert heard == [(0, 0), (1300, 60), (1500, 60)]
            shadowd.send(shadow.format_record(shadow.TAKEN, FIRST))
            loop.run_once()
        assert link.is_taken(FIRST)


def test_a_list_that_cannot_be_read_or_written_is_a_warning(tmp_path: Path) -> None:
    said: list[Event] = []
    layout = Layout(str(tmp_path), 23)
    Path(layout.ended).mkdir(parents=True)
    link = ShadowLink(Loop(), layout, said.append)
    link.ended(FIRST)
    link.save()
    assert [event.format() for event in said] == [
        b"warning: unable to read queue/pyqmail/ended: Is a directory",
        b"warning: unable to write queue/pyqmail/ended: Is a directory",
    ]
