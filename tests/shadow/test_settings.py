"""control/shadow and its password."""

from pathlib import Path

import pytest

from pyqmail.control import Control
from pyqmail.shadow.settings import is_required, parse_url, read_password, read_settings

URL = "postgresql://pyqmail@db.example/mail?sslmode=verify-full"


@pytest.fixture
def control(tmp_path: Path) -> Path:
    (tmp_path / "control").mkdir()
    return tmp_path / "control"


@pytest.mark.parametrize(
    ("text", "required"),
    [
        (URL, True),
        (f"{URL} require\n", True),
        (f"# ours\n{URL}\nprefer\n", False),
        ("\n", None),
    ],
    ids=["alone", "require", "prefer on a line of its own", "no URL"],
)
def test_the_policy_stands_behind_the_url(control: Path, text: str, required: bool | None) -> None:
    (control / "shadow").write_text(text)
    assert is_required(Control(str(control.parent))) is required


@pytest.mark.parametrize("words", ["sometimes", "require prefer", "require require"])
def test_another_word_is_a_fault_and_not_a_guess(control: Path, words: str) -> None:
    (control / "shadow").write_text(f"{URL} {words}\n")
    with pytest.raises(ValueError, match="require and prefer"):
        is_required(Control(str(control.parent)))


@pytest.mark.parametrize(
    "url",
    ["mysql://x@y/z", "db.example", "postgresql://x:secret@y/z", "postgresql://x@y/z?password=secret",
     "postgresql://x@y/z?sslmode=require&passfile=/etc/pgpass"],
)  # fmt: skip
def test_what_is_no_url_or_has_a_password_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(ValueError, match="is wanted|is not taken") as told:
        parse_url(url)
    assert "secret" not in str(told.value)


def test_settings_have_their_bounds(control: Path) -> None:
    for name, text in (("me", "one.example"), ("shadow", URL), ("shadowlease", "1"), ("shadowmax", "4096")):
        (control / name).write_text(text + "\n")
    settings = read_settings(str(control.parent))
    assert (settings.lease_s, settings.bytes_max, settings.name, settings.password) == (30, 4096, "one.example", None)


def test_a_password_that_others_may_read_is_not_used(control: Path) -> None:
    path = control / "shadowpassword"
    path.write_text("seven words\n")
    path.chmod(0o640)
    assert read_password(str(control.parent)) == "seven words"
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 640"):
        read_password(str(control.parent))
