"""From and Reply-To of a list's mail, by value."""

import pytest

from pyqmail.mailauth.list_author import list_header
from pyqmail.mailauth.lookups import TemporaryFailure
from pyqmail.protocol.dns import Kind
from tests.mailauth.zone import Zone

ZONE = Zone({
    (b"_dmarc.strict.test", Kind.TXT): [b"v=DMARC1; p=reject"],
    (b"_dmarc.half.test", Kind.TXT): [b"v=DMARC1; p=none; sp=quarantine"],
    (b"_dmarc.down.test", Kind.TXT): TemporaryFailure(),
    (b"a.half.test", Kind.A): [b"192.0.2.1"],
})  # fmt: skip
REST = b"Subject: x\nTo: talk@lists.test\n"


def sent(header: bytes, name: bytes = b"talk") -> bytes:
    return list_header(header + REST, b"talk@lists.test", name, ZONE)


@pytest.mark.parametrize(
    ("author", "name"),
    [
        (b"Ann Smith <ann@strict.test>", b"Ann Smith via talk"),
        (b'"Smith, Ann" <ann@strict.test>', b'"Smith, Ann via talk"'),
        (b'"A \\"quote\\"" <ann@strict.test>', b'"A \\"quote\\" via talk"'),
        (b"=?utf-8?q?M=C3=BCller?= <ann@strict.test>", b"=?utf-8?q?M=C3=BCller?= via talk"),
        (b"M\xc3\xbcller <ann@strict.test>", b'"M\xc3\xbcller via talk"'),
        (b"ann@strict.test", b"ann via talk"),
        (b"<ann@strict.test>", b"ann via talk"),
        (b"ann@strict.test (Ann)", b"Ann via talk"),
        (b"Ann\n <ann@a.half.test>", b"Ann via talk"),
    ],
)
def test_the_list_writes_for_an_author_whose_domain_is_strict(author: bytes, name: bytes) -> None:
    assert sent(b"From: " + author + b"\n") == (
        b"From: " + name + b"\n\t<talk@lists.test>\nReply-To: " + author + b"\n" + REST
    )


def test_the_author_joins_those_who_get_replies() -> None:
    made = sent(b"From: Ann <ann@strict.test>\nReply-To: bob@x.test,\n carl@x.test\n")
    assert b"Reply-To: bob@x.test,\n carl@x.test,\n\tAnn <ann@strict.test>\n" in made
    assert made.count(b"Reply-To") == 1


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"From: ann@mild.test\n", id="a domain without a record"),
        pytest.param(b"From: ann@half.test\n", id="a policy of none"),
        pytest.param(b"From: talk@lists.test\n", id="the list itself"),
        pytest.param(b"", id="no From"),
        pytest.param(b"From: ann@strict.test\nFrom: bob@strict.test\n", id="two of them"),
        pytest.param(b"From: ann@strict.test\nno field\n", id="a header that is none"),
    ],
)
def test_others_pass_untouched(header: bytes) -> None:
    assert sent(header) == header + REST


def test_an_outage_is_no_policy_of_none() -> None:
    with pytest.raises(TemporaryFailure):
        sent(b"From: ann@down.test\n")


def test_a_name_of_the_lists_own() -> None:
    assert sent(b"From: ann@strict.test\n", b"Small Talk, Inc.").startswith(b'From: "ann via Small Talk, Inc."\n')
