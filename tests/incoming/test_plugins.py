"""Plug-ins of qmail-spp: every section and every letter, in a session with real programs."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.incoming import plugins, recipient_program
from pyqmail.incoming.plugins import DATA, MAIL, RCPT, Plugins, parse_sections
from tests.programs.door import Door, door_of

BODY = b"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n"


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        made.environ["PATH"] = "/usr/bin:/bin"
        yield made


def plug(door: Door, **sections: str) -> None:
    """Let shell commands be the plug-ins of sections."""
    door.control(smtpplugins="".join(f"[{name}]\n:{text}\n" for name, text in sections.items()))


def talk(door: Door, recipients: bytes = b"RCPT TO:<x@here.test>\r\n", rest: bytes = BODY) -> list[bytes]:
    said, _ = door.talk(b"HELO c.test\r\nMAIL FROM:<a@far.test>\r\n" + recipients + rest)
    return said.splitlines()


def codes(lines: list[bytes]) -> list[bytes]:
    return [line[:3] for line in lines]


def test_what_a_plugin_finds_changes_and_adds(door: Door) -> None:
    seen = door.base / "seen"
    plug(
        door,
        connection="echo SMARK=1; echo SGONE=1",
        helo=f'echo "$SMTPHELOHOST $MARK" >>{seen}; echo UGONE; echo HX-Seen: helo',
        mail=f'echo "$SMTPMAILFROM ${{GONE-unset}}" >>{seen}; echo Cb@other.test; echo HX-Plug: mail; echo N; echo E5',
        rcpt=f'echo "$SMTPRCPTTO $SMTPRCPTCOUNT $SMTPRCPTCOUNTALL $SMTPRCPTHOSTSOK" >>{seen}; echo N',
        data="echo SQUEUED=yes",
    )
    door.queue(f'echo "$QUEUED $MARK ${{GONE-unset}}" >>{seen}')
    lines = talk(door, b"RCPT TO:<x@here.test>\r\nRCPT TO:<y@else.test>\r\n")
    assert codes(lines) == [b"220", b"250", b"250", b"250", b"553", b"354", b"250", b"221"]
    assert door.envelope() == b"Fb@other.test\0Tx@here.test\0\0"
    assert (door.base / "message").read_bytes().startswith(b"X-Seen: helo\nX-Plug: mail\nReceived:")
    assert seen.read_text().splitlines() == [
        "c.test 1",
        "a@far.test unset",
        "x@here.test 0 1 1",
        "y@else.test 1 2 0",
        "yes 1 unset",
    ]


@pytest.mark.parametrize(
    ("section", "says", "heard"),
    [
        ("connection", "E554 go away", [b"220"]),
        ("helo", "E550 bad name", [b"220", b"550", b"250", b"553"]),
        ("mail", "E451 later", [b"220", b"250", b"451", b"503"]),
        ("rcpt", "E nobody here", [b"220", b"250", b"250", b"550"]),
        ("rcpt", "R421 bye", [b"220", b"250", b"250", b"421"]),
        ("rcpt", "D", [b"220", b"250", b"250"]),
        ("mail", "LR452 not this one", [b"220", b"250", b"250", b"452"]),
        ("rcpt", "O", [b"220", b"250", b"250", b"250"]),
        ("mail", "A", [b"220", b"250", b"250", b"553"]),
        ("rcpt", "P250-hello", [b"220", b"250", b"250", b"250", b"553"]),
        ("rcpt", "Cx@here.test", [b"220", b"250", b"250", b"250"]),
        ("rcpt", "Znonsense", [b"220", b"250", b"250", b"553"]),
    ],
)
def test_letters(door: Door, section: str, says: str, heard: list[bytes]) -> None:
    plug(door, **{section: f'echo "{says}"'})
    lines = talk(door, b"RCPT TO:<x@else.test>\r\n", b"QUIT\r\n")
    expected = [b"554"] if section == "connection" else heard
    assert codes(lines)[: len(expected)] == expected
    assert len(lines) == len(expected) + (codes(lines)[-1:] == [b"221"])
    if says == "E nobody here":
        assert b"refused ip=192.0.2.7 helo=c.test from=<a@far.test> to=<x@else.test>" in door.log.read_bytes()


def test_a_refusal_for_later_and_one_at_data_leave_nothing_queued(door: Door) -> None:
    plug(door, rcpt="echo LD550 not today")
    assert codes(talk(door))[:5] == [b"220", b"250", b"250", b"250", b"550"]
    plug(door, data="echo E451 busy")
    assert codes(talk(door))[:5] == [b"220", b"250", b"250", b"250", b"451"]
    assert not (door.base / "message").exists()


@pytest.mark.parametrize("broken", ["kill -9 $$", "exit 120", "sleep 60"], ids=["killed", "not run", "too slow"])
def test_a_plugin_that_fails_is_a_refusal_for_now(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "run_program", lambda words, environ, home, text_fd: recipient_program.run_program(
        words, environ, home, text_fd=text_fd, within_s=1.0))  # fmt: skip
    began = time.monotonic()
    made = Plugins({MAIL: (b":echo A; " + broken.encode(),)}, "/")
    outcome = made.run(MAIL, {b"PATH": b"/usr/bin:/bin"}, b"a@x", b"SMTPMAILFROM")
    assert outcome.refusal is not None and outcome.refusal.code == 451 and time.monotonic() - began < 30


def test_a_program_that_is_not_there_is_a_refusal_and_a_rule_switches_all_off(door: Door) -> None:
    door.control(smtpplugins="before/any/section\n[rcpt]\nplugins/none\n[auth]\nplugins/none")
    assert codes(talk(door))[3] == b"451"
    door.environ["NOSPP"] = ""
    assert codes(talk(door))[3] == b"250"


@given(st.binary(max_size=300), st.sampled_from([MAIL, RCPT, DATA]))
def test_whatever_a_plugin_says_becomes_one_reply_and_whole_lines(text: bytes, section: bytes) -> None:
    made = Plugins({section: (b"x",)}, "/")
    outcome = plugins.Outcome(b"a@x")
    made._obey(text, outcome, named=True)
    assert not made.headers or made.headers.endswith(b"\n")
    assert b"\0" not in outcome.address and b"\n" not in outcome.address
    if outcome.refusal is not None:
        assert outcome.refusal.line.count(b"\n") == 1 and 400 <= outcome.refusal.code <= 599
    assert all(line.isascii() for line in outcome.said.splitlines())


def test_auth_is_asked_after_a_right_password_and_may_refuse_it(door: Door) -> None:
    seen, checker = door.base / "seen", door.base / "checker"
    checker.write_text("#!/bin/sh\ncat <&3 >/dev/null\nexit ${NO-0}\n")
    checker.chmod(0o755)
    door.command = [door.command[0], str(checker), "true"]
    door.environ |= {"SMTPAUTH": "", "FORCETLS": "0"}
    hello = b"EHLO c\r\nAUTH PLAIN AGFubgBzZWNyZXQ=\r\n"
    mail = b"MAIL FROM:<a@far.test>\r\nRCPT TO:<x@else.test>\r\nQUIT\r\n"
    plug(door, auth=f'echo "$SMTPAUTHUSER $SMTPAUTHMETHOD" >>{seen}; echo SMARK=1', rcpt=f'echo "$MARK" >>{seen}')
    assert codes(door.talk(hello + mail)[0].splitlines())[-4:] == [b"235", b"250", b"250", b"221"]
    assert seen.read_text() == "ann plain\n1\n"
    plug(door, auth="echo E535 not at this hour")
    assert codes(door.talk(hello + mail)[0].splitlines())[-4:] == [b"535", b"250", b"553", b"221"]
    plug(door, auth="exit 120")
    assert codes(door.talk(hello + mail)[0].splitlines())[-4:] == [b"451", b"250", b"553", b"221"]
    door.environ["NO"] = "1"
    seen.unlink()
    plug(door, auth=f"echo x >{seen}")
    assert codes(door.talk(hello + b"QUIT\r\n")[0].splitlines())[-2:] == [b"535", b"221"] and not seen.exists()


def test_pass_is_asked_about_accepted_recipients_and_takes_one_back(door: Door) -> None:
    seen = door.base / "seen"
    text = f'echo "$SMTPRCPTTO $SMTPRCPTCOUNT" >>{seen}; case $SMTPRCPTTO in y@*) echo E550 no;; esac'
    door.control(smtpplugins=f"[pass]\n:{text}")
    to = b"".join(b"RCPT TO:<%b.test>\r\n" % each for each in (b"x@here", b"x@else", b"y@here", b"z@here"))
    assert codes(talk(door, to))[2:8] == [b"250", b"250", b"553", b"550", b"250", b"354"]
    assert door.envelope() == b"Fa@far.test\0Tx@here.test\0Tz@here.test\0\0"
    assert seen.read_text() == "x@here.test 1\ny@here.test 2\nz@here.test 2\n"


def test_sections_go_by_their_first_letter_as_ever() -> None:
    assert parse_sections(b"x\n# c\n[connect]\na\n[MAIL]\nb\n:c d\n[auth]\ne\n[what]\nf\n[mail from]\ng\n") == {
        b"c": (b"a",),
        b"m": (b"b", b":c d", b"g"),
        b"a": (b"e",),
    }
