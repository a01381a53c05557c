"""Which senders qmail-lspawn rewrites, and what a delivery hears of it."""

from pathlib import Path

import pytest

from pyqmail.intake.resend import rewritten
from pyqmail.local import sender_rewriting
from pyqmail.local.sender_rewriting import SenderRewriting

SRS = {"srs_domain": "srs.test\n", "srs_secrets": "x\n"}
RULES = {
    "me": "mx.test\n",
    "locals": "here.test\n",
    "virtualdomains": ".v.test:joe\nback.test:\n",
    "rcpthosts": "in.test\n",
}


def rewriting(home: Path, **files: str) -> SenderRewriting:
    """For a tree with these control files."""
    (home / "control").mkdir(exist_ok=True)
    for name, text in files.items():
        path = home / "control" / name
        path.write_text(text)
        path.chmod(0o400)
    return SenderRewriting(str(home))


@pytest.mark.parametrize(
    ("sender", "changed"),
    [
        (b"ann@orig.test", True),
        (b"SRS0=abcd=TT=orig.test=ann@first.test", True),
        (b"ann@back.test", True),
        (b"ann@MX.test", False),
        (b"ann@here.test", False),
        (b"ann@a.v.test", False),
        (b"ann@in.test", False),
        (b"SRS0=abcd=TT=orig.test=ann@SRS.test", False),
        (b"", False),
        (b"#@[]", False),
        (b"list-@orig.test-@[]", False),
        (b"ann", False),
    ],
)
def test_strangers_senders_are_rewritten(tmp_path: Path, sender: bytes, changed: bool) -> None:
    found = rewriting(tmp_path, **RULES, **SRS).variables(sender)
    assert [name for name in found] == [b"SRSSENDER"] * changed
    assert all(value.endswith(b"@srs.test") for value in found.values())
    always = rewriting(tmp_path, srs_alwaysrewrite="1\n").variables(sender)
    assert bool(always) == (
        changed or sender.rpartition(b"@")[2].lower() in (b"mx.test", b"here.test", b"a.v.test", b"in.test")
    )


def test_without_a_domain_nothing_is_said_or_read(tmp_path: Path) -> None:
    assert not rewriting(tmp_path, **RULES, srs_secrets="x\n").variables(b"ann@orig.test")


@pytest.mark.parametrize("name", ["srs_secrets", "rcpthosts"])
def test_what_cannot_be_read_makes_forwards_wait(tmp_path: Path, name: str) -> None:
    made = rewriting(tmp_path, **RULES, **SRS)
    (tmp_path / "control" / name).unlink()
    (tmp_path / "control" / name).mkdir()
    assert made.variables(b"ann@orig.test") == {b"SRSSENDER": b""}
    assert not made.variables(b"")


def test_a_change_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_rewriting, "LOOK_S", 0.0)
    made = rewriting(tmp_path, **RULES)
    assert not made.variables(b"ann@orig.test")
    rewriting(tmp_path, **SRS)
    assert made.variables(b"ann@orig.test")[b"SRSSENDER"].startswith(b"SRS0=")
    rewriting(tmp_path, rcpthosts="orig.test\n")
    assert not made.variables(b"ann@orig.test")
    (tmp_path / "control" / "srs_domain").unlink()
    assert not made.variables(b"ann@other.test")


@pytest.mark.parametrize(
    ("environ", "sender", "expected"),
    [
        pytest.param({}, b"ann@o", b"ann@o", id="no SRS"),
        pytest.param({b"SRSSENDER": b"S@h"}, b"ann@o", b"S@h", id="the delivery's own sender, in qmail-local"),
        pytest.param({b"SRSSENDER": b"S@h", b"SENDER": b"ann@o"}, b"ann@o", b"S@h", id="and in a program"),
        pytest.param({b"SRSSENDER": b"S@h", b"SENDER": b"ann@o"}, b"owner@l", b"owner@l", id="a list has its own"),
        pytest.param({b"SRSSENDER": b"S@h", b"SENDER": b"ann@o"}, b"", b"", id="a bounce has none"),
        pytest.param({b"SRSSENDER": b"", b"SENDER": b"ann@o"}, b"ann@o", None, id="it cannot be told now"),
    ],
)
def test_who_a_forward_is_from(environ: dict[bytes, bytes], sender: bytes, expected: bytes | None) -> None:
    assert rewritten(environ, sender) == expected
