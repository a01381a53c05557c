"""rcpthosts."""

from pathlib import Path

import pytest

from pyqmail.control import Control, ControlUnreadable
from pyqmail.policy.relaying import Relaying


def rules(tmp_path: Path, **controls: str) -> Relaying:
    (tmp_path / "control").mkdir()
    for name, text in controls.items():
        (tmp_path / "control" / name).write_text(text)
    return Relaying(Control(str(tmp_path)))


@pytest.mark.parametrize(
    ("recipient", "accepted"),
    [
        pytest.param(b"a@Here.Test", True, id="a listed host in any case"),
        pytest.param(b"a@x.sub.test", True, id="below a listed suffix"),
        pytest.param(b"a@sub.test", False, id="the suffix does not list its own domain"),
        pytest.param(b"a@here.test.", False, id="a trailing dot is another host"),
        pytest.param(b"a", True, id="no domain is local"),
        pytest.param(b"a@elsewhere", False, id="another host"),
    ],
)
def test_rcpthosts(tmp_path: Path, recipient: bytes, accepted: bool) -> None:
    assert rules(tmp_path, rcpthosts="here.test\n.sub.test\n").accepts(recipient) is accepted


def test_an_empty_rcpthosts_refuses_every_domain(tmp_path: Path) -> None:
    assert not rules(tmp_path, rcpthosts="", me="here.test\n").accepts(b"a@here.test")


def test_a_missing_rcpthosts_does_not_open_the_relay(tmp_path: Path) -> None:
    relaying = rules(tmp_path, me="mx.test\n", locals="here.test\n")
    assert relaying.rcpthosts_missing
    assert relaying.accepts(b"a@here.test") and relaying.accepts(b"a@mx.test")
    assert not relaying.accepts(b"a@elsewhere.test")


def test_a_damaged_cdb_is_no_answer(tmp_path: Path) -> None:
    relaying = rules(tmp_path, rcpthosts="here.test\n", **{"morercpthosts.cdb": "short"})
    assert relaying.accepts(b"a@here.test")
    with pytest.raises(ControlUnreadable):
        relaying.accepts(b"a@there.test")
