"""SRS by value, and beside Debian's postsrsd with the same secret."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.control import Control, ControlUnreadable
from pyqmail.mailauth.srs import ADDRESS_MAX, DAY_S, NO_HOST, BadSrs, Srs
from pyqmail.mailauth.srs_address import kind_of
from pyqmail.mailauth.srs_controls import read_srs
from tests.mailauth.postsrsd import Postsrsd, running

SECRET = "a secret that two hosts know"
OURS = Srs(b"srs.test", (SECRET.encode(),))
NOW_S = 20000.5 * DAY_S
TEXT = st.binary(min_size=1, max_size=60).filter(lambda text: b"@" not in text)


def local_of(address: bytes) -> bytes:
    """The part before the @."""
    return address.rpartition(b"@")[0]


def in_base64url(text: bytes) -> bytes:
    """RFC 4648 section 5."""
    return text.translate(bytes.maketrans(b"+/", b"-_"))


@given(TEXT, TEXT.filter(lambda host: b"=" not in host and host != NO_HOST))
def test_what_goes_out_comes_back(local: bytes, host: bytes) -> None:
    sender = local + b"@" + host
    made = OURS.forward(sender, NOW_S)
    assert made.endswith(b"@srs.test") and kind_of(made) and len(made) <= ADDRESS_MAX
    back = OURS.reverse(local_of(made), NOW_S)
    assert back == sender or (local[:3].lower() == b"srs" and back.lower() == sender.lower())


@given(st.binary(max_size=80))
def test_nothing_that_was_not_made_here_comes_back(local: bytes) -> None:
    for kind in (b"SRS0=", b"SRS1=", b""):
        with pytest.raises(BadSrs):
            OURS.reverse(kind + local, NOW_S)


@pytest.mark.parametrize(
    ("days", "good"),
    [
        pytest.param(0, True, id="made today"),
        pytest.param(21, True, id="as old as it may be"),
        pytest.param(22, False, id="a day too old"),
        pytest.param(-1, True, id="made by a clock that is a day ahead"),
        pytest.param(-2, False, id="made two days ahead"),
        pytest.param(1024, True, id="days begin again after 1024"),
    ],
)
def test_age(days: int, good: bool) -> None:
    local = local_of(OURS.forward(b"joe@orig.test", NOW_S))
    later = NOW_S + days * DAY_S
    if good:
        assert OURS.reverse(local, later) == b"joe@orig.test"
    else:
        with pytest.raises(BadSrs):
            OURS.reverse(local, later)


def test_a_hash_in_base64url_is_the_same_hash() -> None:
    """postsrsd makes such since 2.2.6."""
    made = (local_of(OURS.forward(b"joe%d@orig.test" % number, NOW_S)) for number in range(9999))
    local = next(local for local in made if b"+" in local[5:9] and b"/" in local[5:9])
    other = local[:5] + in_base64url(local[5:9]) + local[9:]
    assert other != local and OURS.reverse(other, NOW_S) == OURS.reverse(local, NOW_S)


def test_each_letter_of_an_address_counts() -> None:
    local = local_of(OURS.forward(b"joe@orig.test", NOW_S))
    assert OURS.reverse(local.lower(), NOW_S) == b"joe@orig.test"
    for place in range(5, len(local)):
        other = local[:place] + (b"x" if local[place : place + 1] not in b"xX" else b"y") + local[place + 1 :]
        with pytest.raises(BadSrs):
            OURS.reverse(other, NOW_S)
    for shorter in (local.replace(local[5:9], local[5:8]), local.replace(local[5:9], b"")):
        with pytest.raises(BadSrs):
            OURS.reverse(shorter, NOW_S)


def test_the_second_forwarder_keeps_the_first_and_leaves_the_third_out() -> None:
    first = Srs(b"first.test", (b"one",)).forward(b"joe@orig.test", NOW_S)
    second = OURS.forward(first, NOW_S)
    assert second.startswith(b"SRS1=") and second.endswith(b"=first.test=" + local_of(first)[4:] + b"@srs.test")
    third = Srs(b"third.test", (b"three",)).forward(second, NOW_S)
    assert third.count(b"=first.test=") == 1 and b"srs.test" not in third
    assert Srs(b"third.test", (b"three",)).reverse(local_of(third), NOW_S) == first
    with pytest.raises(BadSrs):
        OURS.reverse(local_of(third), NOW_S)


def test_old_secrets_are_good_for_what_comes_back() -> None:
    made = local_of(Srs(b"srs.test", (b"old",)).forward(b"joe@orig.test", NOW_S))
    assert Srs(b"srs.test", (b"new", b"old")).reverse(made, NOW_S) == b"joe@orig.test"
    with pytest.raises(BadSrs):
        Srs(b"srs.test", (b"new",)).reverse(made, NOW_S)


@pytest.mark.parametrize(
    "sender", [b"", b"#@[]", b"list-@host-@[]", b"joe", b"@o.test", b"joe@a=b", b"j" * ADDRESS_MAX + b"@orig.test"]
)
def test_a_sender_that_cannot_be_said_in_another_address_stays(sender: bytes) -> None:
    assert OURS.forward(sender, NOW_S) == sender


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postsrsd]:
    """postsrsd for the same domain, with the same secret."""
    if shutil.which("postsrsd") is None:
        pytest.skip("postsrsd is not installed")
    with running(tmp_path_factory.mktemp("postsrsd"), "srs.test", SECRET) as found:
        yield found


@pytest.mark.parametrize(
    "sender",
    [
        pytest.param(b"joe@orig.test", id="a plain sender"),
        pytest.param(b"Joe.Smith+x=y@Orig.Test", id="capitals, a plus and an equals sign"),
        pytest.param(b"SRS0=abcd=TT=orig.test=joe@first.test", id="what a first forwarder has made"),
        pytest.param(b"SRS1=abcd=first.test==wxyz=TT=orig.test=joe@second.test", id="what a second has made"),
    ],
)
def test_postsrsd_reads_ours_and_we_read_its(peer: Postsrsd, sender: bytes) -> None:
    ours, theirs = OURS.forward(sender, time.time()), peer.forward(sender)
    back = OURS.reverse(local_of(theirs), time.time())
    assert peer.reverse(ours) == back
    assert back == sender or sender.startswith(b"SRS1")
    alike = {in_base64url(local_of(made).partition(b"=")[2]).lower() for made in (ours, theirs)}
    assert len(alike) == 1 or time.time() % DAY_S < 60  # midnight may lie between the two
    assert peer.reverse(ours.replace(b"@", b"x@")) == b""


@pytest.mark.parametrize("local", [b"SRS1=abcd=second.test=", b"SRS1=abcd==x", b"SRS1=abcd"])
def test_what_only_begins_like_another_forwarders_comes_back_as_it_was(local: bytes) -> None:
    made = OURS.forward(local + b"@other.test", time.time())
    assert made.startswith(b"SRS0=")
    assert OURS.reverse(local_of(made), time.time()) == local + b"@other.test"


def tree(folder: Path, **files: str) -> Control:
    """A control directory."""
    (folder / "control").mkdir()
    for name, text in files.items():
        (folder / "control" / name).write_text(text)
        (folder / "control" / name).chmod(0o400)
    return Control(str(folder))


def test_without_a_domain_there_is_no_srs(tmp_path: Path) -> None:
    assert read_srs(tree(tmp_path, srs_secrets="x\n")) is None


def test_the_control_files(tmp_path: Path) -> None:
    control = tree(tmp_path, srs_domain="SRS.Test\n", srs_secrets="new\nold\n", srs_maxage="9\n", srs_hashlength="8\n",
                   srs_hashmin="1\n", srs_separator="+\n")  # fmt: skip
    assert read_srs(control) == Srs(b"srs.test", (b"new", b"old"), 9, 8, 4, b"+")


@pytest.mark.parametrize(
    ("files", "mode"),
    [
        pytest.param({}, 0o400, id="no secrets"),
        pytest.param({"srs_secrets": "# none yet\n"}, 0o400, id="a file without one"),
        pytest.param({"srs_secrets": "x\n"}, 0o440, id="secrets that the group can read"),
        pytest.param({"srs_secrets": "x\n", "srs_separator": "."}, 0o400, id="a separator that nobody knows"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, files: dict[str, str], mode: int) -> None:
    control = tree(tmp_path, srs_domain="srs.test\n", **files)
    if "srs_secrets" in files:
        os.chmod(tmp_path / "control" / "srs_secrets", mode)
    with pytest.raises(ControlUnreadable):
        read_srs(control)
