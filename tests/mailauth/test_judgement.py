"""A whole message judged: what a hostile one can cost."""

from collections.abc import Sequence

import pytest

from pyqmail.mailauth import canonical
from pyqmail.mailauth.dkim import SIGNATURES_MAX
from pyqmail.mailauth.judgement import judge_message
from pyqmail.mailauth.lookups import QUESTIONS_MAX, CachedLookups, Question
from pyqmail.protocol.dns import Kind
from pyqmail.resolver import Found, HardFailure, SoftFailure
from tests.mailauth.test_dkim import RSA, public_record, signed
from tests.mailauth.test_dkim import SigningKey as Key
from tests.mailauth.zone import Zone

AUTHOR = b".".join([b"a"] * 40) + b".example"  # whose DMARC walk would be long


def one_of(domain: bytes) -> bytes:
    return signed(b"From: a@" + AUTHOR + b"\n", b"x\n", [Key(domain, b"s", RSA)]).partition(b"From:")[0]


@pytest.mark.parametrize(
    "failure", [HardFailure("none", no_name=True), SoftFailure("silence")], ids=["no names", "silence"]
)
def test_a_thousand_signatures_and_ten_thousand_fields_are_a_few_questions_and_a_few_hashes(
    failure: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = 0
    feed = canonical.BodyHash.feed

    def counted(self: canonical.BodyHash, text: bytes) -> None:
        nonlocal hashed
        hashed += len(text)
        feed(self, text)

    monkeypatch.setattr(canonical.BodyHash, "feed", counted)
    form = one_of(b"PLACE.example")
    signatures = b"".join(form.replace(b"PLACE", b"d%d" % number) for number in range(1000))
    arc = b"".join(b"ARC-Seal: i=%d; a=rsa-sha256; d=x.example; s=s; cv=none; b=eA==\n" % n for n in range(1, 51))
    body = b"x" * 100_000
    text = signatures + arc + b"X: y\n" * 8900 + b"From: a@" + AUTHOR + b"\n\n" + body
    asked: list[Question] = []

    def look_up(questions: Sequence[Question]) -> list[Found]:
        asked.extend(questions)
        return [failure] * len(questions)

    answer = judge_message({b"spf": b"none", b"domain": b""}, [text], CachedLookups(look_up))
    assert [name for name, _ in answer].count(b"dkim") == SIGNATURES_MAX
    assert len(asked) <= SIGNATURES_MAX + 8 + 20 < QUESTIONS_MAX  # keys, DMARC's walk, seals
    assert hashed <= 2 * len(body)  # forms that the signatures share


def test_a_field_too_many_and_nothing_is_asked() -> None:
    def look_up(questions: Sequence[Question]) -> list[Found]:
        raise AssertionError(questions)

    text = b"X: y\n" * 10001 + b"From: a@a.example\n\nx\n"
    answer = dict(judge_message({}, [text], CachedLookups(look_up)))
    assert answer[b"dmarc"] == b"permerror" and answer[b"problem"] == b"the header has too many fields"


@pytest.mark.parametrize(
    ("spf", "signed_too", "result"),
    [
        pytest.param(b"temperror", True, b"pass", id="a signature is enough"),
        pytest.param(b"temperror", False, b"temperror", id="nothing else speaks for it"),
        pytest.param(b"permerror", False, b"fail", id="a mistake is no pass"),
        pytest.param(b"permerror", True, b"pass", id="a mistake and a signature"),
    ],
)
def test_trouble_with_spf_leaves_the_rest_to_be_judged(spf: bytes, signed_too: bool, result: bytes) -> None:
    zone = Zone({
        (b"s._domainkey.a.example", Kind.TXT): [public_record(RSA)],
        (b"_dmarc.a.example", Kind.TXT): [b"v=DMARC1; p=reject"],
    })  # fmt: skip
    header = b"From: a@a.example\n"
    text = signed(header, b"x\n", [Key(b"a.example", b"s", RSA)]) if signed_too else header + b"\nx\n"
    answer = dict(judge_message({b"spf": spf, b"domain": b"a.example"}, [text], zone))
    assert answer[b"dmarc"] == result


def test_what_a_text_names_is_asked_together() -> None:
    asked: list[list[bytes]] = []

    def look_up(questions: Sequence[Question]) -> list[Found]:
        asked.append([name for name, _ in questions])
        return [HardFailure("no such name", no_name=True)] * len(questions)

    text = signed(b"From: a@mail.a.example\n", b"hello\n", [Key(b"mail.a.example", b"s", RSA)])
    judge_message({}, [text], CachedLookups(look_up))
    together = [b"_dmarc.mail.a.example", b"_dmarc.a.example", b"_dmarc.example"]
    assert asked == [[b"s._domainkey.mail.a.example", *together]]
