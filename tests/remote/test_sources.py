"""From which address a delivery goes out: by sender, by its domain, by family, and what no address is."""

from pathlib import Path

import pytest

from pyqmail.control import Control, ControlUnreadable
from pyqmail.remote.sources import NONE, read_sources

V4, V6 = bytes(4), bytes(16)


def control(base: Path, **files: str) -> Control:
    (base / "control").mkdir()
    for name, text in files.items():
        (base / "control" / name).write_text(text)
    return Control(str(base))


def test_without_files_the_kernel_chooses(tmp_path: Path) -> None:
    assert read_sources(control(tmp_path)) is NONE
    assert (NONE.of(b"a@b.test", V4), NONE.name_of("192.0.2.1")) == ("", b"")


def test_the_sender_comes_before_its_domain_and_everybody(tmp_path: Path) -> None:
    bindings = "Ann@b.test:192.0.2.1 2001:DB8::1\nB.test:192.0.2.2\nc.test:2001:db8::3\n"
    found = read_sources(control(tmp_path, outgoingip="192.0.2.9\n", domainbindings=bindings))
    assert [found.of(b"aNN@b.test", packed) for packed in (V4, V6)] == ["192.0.2.1", "2001:db8::1"]
    assert [found.of(b"bob@B.TEST", packed) for packed in (V4, V6)] == ["192.0.2.2", ""]
    assert [found.of(b"x@c.test", packed) for packed in (V4, V6)] == ["", "2001:db8::3"]
    assert [found.of(sender, V4) for sender in (b"x@d.test", b"")] == ["192.0.2.9"] * 2


def test_names_by_address(tmp_path: Path) -> None:
    names = "192.0.2.1:one.test\n2001:db8:0::1:six.test\n"
    found = read_sources(control(tmp_path, helohostbyip=names))
    assert [found.name_of(each) for each in ("192.0.2.1", "2001:db8::1", "192.0.2.2", "")] == [
        b"one.test", b"six.test", b"", b"",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "files",
    [
        {"outgoingip": "mx.test\n"},
        {"outgoingip": "192.0.2.1 192.0.2.2\n"},
        {"domainbindings": "b.test:192.0.2.256\n"},
        {"helohostbyip": "here:one.test\n"},
    ],
)
def test_what_is_no_address_makes_mail_wait(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(ControlUnreadable, match=f"control/{next(iter(files))}: "):
        read_sources(control(tmp_path, **files))
