"""What goes wrong between todo and the channels leaves the message in todo."""

import os
from pathlib import Path

import pytest

from pyqmail.log.events import Warn
from pyqmail.policy.classify import Routing
from pyqmail.spool.layout import Layout
from pyqmail.spool.preprocess import Log, Prepared, PreprocessTrouble, examine, make_durable, prepare
from pyqmail.system import files
from tests.programs.sending import make_queue

ROUTING = Routing(b"d", frozenset({b"here"}), frozenset(), {})


def prepare_todo(layout: Layout, number: int, routing: Routing, log: Log) -> Prepared:
    return prepare(layout, examine(layout, number, routing, log), log)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    make_queue(tmp_path)
    (tmp_path / "queue/mess/1/4").write_bytes(b"12345")
    (tmp_path / "queue/todo/4").write_bytes(b"u1\0p2\0Fs\0Ta@here\0Tb@far\0Tc@here\0")
    return Layout(str(tmp_path), 3)


@pytest.mark.contract("send 4.3", "send 4.4", "send 4.6", "send 4.7")
def test_old_files_are_replaced_and_order_is_kept(layout: Layout) -> None:
    for part in ("info", "local"):
        Path(layout.part(part, 4)).write_bytes(b"old")
    log: list[bytes] = []
    prepared = prepare_todo(layout, 4, ROUTING, lambda event: log.append(event.format()))
    assert make_durable(layout, [prepared]) == [None]
    assert log == [b"new msg 4", b"info msg 4: bytes 5 from <s> qp 2 uid 1"]
    assert prepared.channels == ("local", "remote")
    assert Path(layout.local(4)).read_bytes() == b"Ta@here\0Tc@here\0"
    assert Path(layout.remote(4)).read_bytes() == b"Tb@far\0"


@pytest.mark.contract("send 4.1", "send 4.2", "send 4.6")
@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("todo", b"warning: unable to open todo/4"),
        ("mess", b"warning: unable to stat mess/1/4"),
        ("record", b"warning: unknown record type in todo/4"),
    ],
)
def test_each_trouble_has_its_line(layout: Layout, broken: str, text: bytes) -> None:
    if broken == "record":
        Path(layout.todo(4)).write_bytes(b"Xx\0")
    else:
        os.unlink(layout.todo(4) if broken == "todo" else layout.mess(4))
    with pytest.raises(PreprocessTrouble) as caught:
        prepare_todo(layout, 4, ROUTING, lambda line: None)
    assert caught.value.warning.format() == text


@pytest.mark.contract("send 4.7")
def test_a_failed_sync_is_told(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "EIO")

    prepared = prepare_todo(layout, 4, ROUTING, lambda line: None)
    monkeypatch.setattr(files, "sync", fail)
    assert make_durable(layout, [prepared]) == [Warn(b"trouble fsyncing info/1/4")]
