"""qmail-dkim: in the place of qmail-queue and as a filter, with the family's variables."""

import os
import subprocess
from pathlib import Path

import pytest

from pyqmail.mailauth.dkim import Outcome
from pyqmail.mailauth.letters import WORDS, letter_of
from tests.mailauth.test_dkim import outcomes, signed
from tests.mailauth.test_vouching import QUEUED, session
from tests.programs.door import BIN, DEADLINE_S
from tests.remote.test_signatures import FROM, home_with_keys

TEXT = FROM + b"\nhello \n.\nno end"
LISTED = (b"a.example",)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = home_with_keys(tmp_path)
    (made / "control/dnsservers").write_text("127.0.0.1:1\n")  # nobody
    return made


def dkim(home: Path, message: bytes, **environ: str) -> tuple[int, bytes, bytes]:
    """The exit code of a filter, what comes out of it, and what it says on descriptor 6."""
    ours, theirs = os.pipe()
    told = {"QMAIL_HOME": str(home), "DKIMQUEUE": "/bin/cat", **environ}
    run = subprocess.run(
        [BIN / "qmail-dkim"], input=message, env=told, capture_output=True, timeout=DEADLINE_S * 2, check=False,
        pass_fds=[6], preexec_fn=lambda: os.dup2(theirs, 6),
    )  # fmt: skip
    os.close(theirs)
    with os.fdopen(ours, "rb") as heard:
        return run.returncode, run.stdout, heard.read()


def test_what_an_own_client_sends_is_signed_by_each_key_and_else_left_as_it_is(home: Path) -> None:
    code, text, _ = dkim(home, TEXT, RELAYCLIENT="")
    assert code == 0 and text.endswith(TEXT) and text.count(b"DKIM-Signature: ") == 2
    assert [each.result for each in outcomes(text)] == [b"pass", b"pass"]


def test_the_next_program_has_the_envelope_and_says_what_becomes_of_it(home: Path) -> None:
    queue = home / "queue-program"
    queue.write_text(f"#!/bin/sh\ncat >{home}/message\ncat <&1 >{home}/envelope\nexit 53\n")
    queue.chmod(0o755)
    ours, theirs = os.pipe()
    os.write(theirs, b"Fs@x\0Tr@y\0\0")
    os.close(theirs)
    told = {"QMAIL_HOME": str(home), "DKIMQUEUE": "queue-program", "AUTHINFO": "ann"}
    run = subprocess.run([BIN / "qmail-dkim"], input=TEXT, stdout=ours, env=told, timeout=DEADLINE_S, check=False)
    os.close(ours)
    assert run.returncode == 53
    assert (home / "envelope").read_bytes() == b"Fs@x\0Tr@y\0\0"
    assert (home / "message").read_bytes().count(b"DKIM-Signature: ") == 2


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        pytest.param({"DKIMSIGN": "control/domainkeys/%/r"}, 1, id="one key"),
        pytest.param({"DKIMKEY": "control/domainkeys/%/e"}, 1, id="another"),
        pytest.param({"DKIMSIGN": "control/domainkeys/%/r", "DKIMSIGNEXTRA": "control/domainkeys/%/e"}, 2, id="two"),
        pytest.param({"DKIMSIGN": "control/domainkeys/%/none"}, 0, id="none"),
    ],
)
def test_keys_by_variables(home: Path, environ: dict[str, str], count: int) -> None:
    code, text, _ = dkim(home, TEXT, RELAYCLIENT="", **environ)
    assert code == 0 and text.count(b"DKIM-Signature: ") == count


def test_identity_and_expiry(home: Path) -> None:
    _, text, _ = dkim(home, TEXT, RELAYCLIENT="", DKIMSIGNOPTIONS="-z 2 -c r -i ann@a.example", DKIMEXPIRE="9999999999")
    assert b" i=ann@a.example; x=9999999999;" in text
    assert [each.result for each in outcomes(text)] == [b"pass", b"pass"]


@pytest.mark.parametrize(
    ("trace", "environ", "signs"),
    [
        pytest.param(session(b"SMTP"), {"DKIMSIGN": "control/domainkeys/%/r"}, False, id="a stranger"),
        pytest.param(QUEUED + session(b"SMTP"), {"DKIMSIGN": "control/domainkeys/%/r"}, False, id="as a filter"),
        pytest.param(QUEUED + session(b"QMQP"), {"DKIMSIGN": "control/domainkeys/%/r"}, True, id="ours, as a filter"),
        pytest.param(
            b"Authentication-Results: mx.example.test;\n\tauth=pass smtp.auth=eve\n" + session(b"ESMTPA"),
            {"RELAYCLIENT": ""}, False, id="a user with another's From",
        ),
        pytest.param(session(b"ESMTPA"), {"RELAYCLIENT": ""}, True, id="a user, by another qmail-smtpd"),
        pytest.param(b"From: x@other.example\n", {"RELAYCLIENT": ""}, False, id="two authors"),
    ],
)  # fmt: skip
def test_only_what_we_vouch_for_is_signed(home: Path, trace: bytes, environ: dict[str, str], signs: bool) -> None:
    (home / "control/authservid").write_text("mx.example.test\n")
    code, text, _ = dkim(home, trace + TEXT, **environ)
    assert code == 0 and text.endswith(trace + TEXT)
    assert text.startswith(b"DKIM-Signature: ") is signs


@pytest.mark.parametrize("environ", [{}, {"ERROR_FD": "6"}, {"DKIMSIGN": "control/nothing"}])
def test_with_a_key_that_is_of_no_use_it_is_later_and_nothing_is_handed_on(home: Path, environ: dict[str, str]) -> None:
    (home / "control/domainkeys/a.example/r").write_bytes(b"broken")
    code, text, said = dkim(home, TEXT, RELAYCLIENT="", **environ)
    assert (code, text) == (88 if "ERROR_FD" in environ else 82, b"")
    assert said.startswith(b"ZUnable to use the DKIM key ")


@pytest.mark.parametrize(
    ("wanted", "reply"),
    [("", b""), ("FGHp", b"ZDKIM: unknown: no answer about the key (#4.7.20)"), ("P", b"DDKIM: unknown")],
)
def test_a_letter_refuses_or_defers_and_else_the_field_says_it(home: Path, wanted: str, reply: bytes) -> None:
    message = signed(FROM, b"hello\n")
    code, text, said = dkim(home, message, DKIMVERIFY=wanted)
    assert said.startswith(reply) and bool(said) is bool(reply)
    assert (code, text) == ((82, b"") if reply else (0, b"DKIM-Status: unknown: no answer about the key\n" + message))


def test_without_variables_strangers_are_verified_and_lists_say_who_must_sign(home: Path) -> None:
    assert dkim(home, TEXT)[1].startswith(b"DKIM-Status: not signed\n")
    assert dkim(home, TEXT, DKIMVERIFY="S")[:2] == (82, b"")
    (home / "control/nosignaturedomains").write_text("*\n")
    assert dkim(home, TEXT, DKIMVERIFY="S")[1].startswith(b"DKIM-Status: not signed, and need not be\n")
    (home / "control/signaturedomains").write_text("a.example\n")
    assert dkim(home, TEXT, DKIMVERIFY="G")[2] == b"DDKIM: bad, though this domain signs (#5.7.20)"
    assert dkim(home, TEXT, DKIMVERIFY="G", RELAYCLIENT="", RELAYCLIENT_NODKIMVERIFY="")[1] == TEXT


def outcome(result: bytes, reason: str = "", domain: bytes = b"a.example") -> Outcome:
    return Outcome(result, domain, b"s", reason=reason)


@pytest.mark.parametrize(
    ("found", "signers", "letter"),
    [
        ([outcome(b"pass")], (), b"A"),
        ([outcome(b"pass", domain=b"example")], (), b"A"),
        ([outcome(b"pass"), outcome(b"fail")], LISTED, b"C"),
        ([outcome(b"policy", "7 bytes of the body are not signed")], (), b"E"),
        ([outcome(b"pass", domain=b"b.example")], (), b"F"),
        ([outcome(b"fail", "the body has been altered")], LISTED, b"G"),
        ([outcome(b"temperror", "no answer about the key")], LISTED, b"P"),
        ([outcome(b"fail", "the signature does not fit")], (), b"I"),
        ([outcome(b"fail", "expired")], (), b"K"),
        ([outcome(b"permerror", "key revoked")], (), b"N"),
        ([outcome(b"permerror", "no key")], (), b"Q"),
        ([outcome(b"policy", "512-bit key")], (), b"R"),
        ([outcome(b"fail", "the body has been altered")], (), b"U"),
        ([outcome(b"permerror", "From is not signed")], (), b"X"),
        ([outcome(b"permerror", "a tag is malformed")], (), b"H"),
        ([], (), b"S"),
        ([], LISTED, b"G"),
    ],
)
def test_the_letter_of_what_is_found(found: list[Outcome], signers: tuple[bytes, ...], letter: bytes) -> None:
    assert letter_of(found, b"a.example", signers, ()) == letter
    assert letter in WORDS
