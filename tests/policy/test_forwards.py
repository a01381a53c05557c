"""What is passed on with a forward: RFC 3461 section 5.2.7, and how a message may travel."""

import pytest

from pyqmail.formats.facts import FACTS_MAX, Facts, RecipientFacts, belong_to, format_facts, parse_facts
from pyqmail.intake.client import FACTS
from pyqmail.intake.resend import REWRITTEN, WISHES, forwarding
from pyqmail.policy.forwards import facts_of_forward, how_it_travels, wishes_for

SENDER, LIST, SRS = b"joe@a.example", b"list-owner@here.example", b"SRS0=x=y=a.example=joe@here.example"
ORCPT = b"rfc822;ann+2Blist@x"
ONE, TWO = (b"b@far.example",), (b"b@far.example", b"c@far.example")


def notify(words: str) -> frozenset[bytes]:
    return frozenset(words.encode().split(b",")) if words else frozenset()


@pytest.mark.parametrize(
    ("section", "new_sender", "recipients", "alone", "said", "passed_on"),
    [
        pytest.param("5.2.7.1 b", LIST, TWO, False, "SUCCESS,FAILURE", None, id="a list derives nothing"),
        pytest.param("5.2.7.1 b", LIST, ONE, True, "NEVER", None, id="a list of one neither"),
        pytest.param("5.2.7.4", LIST, ONE, True, "SUCCESS", None, id="an address kept to itself is a list"),
        pytest.param(
            "5.2.7.2", SENDER, ONE, True, "SUCCESS,DELAY", "SUCCESS,DELAY", id="an alias of one passes all on"
        ),
        pytest.param("5.2.7.2", SENDER, ONE, True, "NEVER", "NEVER", id="NEVER too"),
        pytest.param("5.2.7.2", SENDER, ONE, True, "", "", id="and makes no NOTIFY up"),
        pytest.param("5.2.7.2", SRS, ONE, True, "SUCCESS", "SUCCESS", id="a sender in SRS is the same sender"),
        pytest.param("5.2.7.3 c", SENDER, TWO, False, "SUCCESS,FAILURE", "FAILURE", id="several lose SUCCESS"),
        pytest.param("5.2.7.3 c", SENDER, TWO, False, "SUCCESS", "NEVER", id="SUCCESS alone becomes NEVER"),
        pytest.param("5.2.7.3 c", SENDER, TWO, False, "DELAY", "DELAY", id="the rest stays"),
        pytest.param("5.2.7.3 c", SENDER, TWO, False, "", "", id="nothing stays nothing"),
        pytest.param(
            "5.2.7.3 c", SENDER, ONE, False, "SUCCESS,DELAY", "DELAY", id="a mailbox and a forward are several"
        ),
    ],
)
def test_what_goes_on_with_a_forward(
    section: str, new_sender: bytes, recipients: tuple[bytes, ...], alone: bool, said: str, passed_on: str | None
) -> None:
    facts = Facts(b"HDRS", b"an+2Did", True, requiretls=True)
    wishes = wishes_for(facts, RecipientFacts(b"alias@here.example", notify(said), ORCPT), SENDER)
    environ = {b"SENDER": SENDER, REWRITTEN: SRS, FACTS: how_it_travels(facts, SENDER), WISHES: wishes}
    made = forwarding(environ, new_sender, recipients, alone=alone)[FACTS]
    assert belong_to(made, new_sender, recipients), section
    named = () if passed_on is None else tuple(RecipientFacts(each, notify(passed_on), ORCPT) for each in recipients)
    kept = (b"", b"") if passed_on is None else (facts.ret, facts.envid)
    assert parse_facts(made) == Facts(*kept, True, named, requiretls=True), section


def test_a_message_without_facts_is_forwarded_without() -> None:
    environ = {b"SENDER": SENDER}
    assert forwarding(environ, SENDER, ONE) is environ
    assert how_it_travels(Facts(b"FULL"), SENDER) == wishes_for(Facts(smtputf8=True), RecipientFacts(b"a"), b"") == b""
    assert facts_of_forward(b"no facts", b"nor these", SENDER, ONE, alone=True) == b""


def test_who_forwards_by_hand_has_no_sender_whose_wishes_it_could_pass_on() -> None:
    wishes = wishes_for(Facts(), RecipientFacts(b"a", notify("NEVER")), b"")
    assert FACTS not in forwarding({WISHES: wishes, REWRITTEN: b""}, b"", ONE)


@pytest.mark.parametrize(("count", "orcpt", "told"), [(50, ORCPT, 50), (600, b"", 600), (5000, b"", 0)])
def test_wishes_that_do_not_fit_are_left_out_and_the_rest_is_not(count: int, orcpt: bytes, told: int) -> None:
    wishes = wishes_for(Facts(), RecipientFacts(b"a", notify("NEVER"), ORCPT), SENDER)
    travel = how_it_travels(Facts(requiretls=True), SENDER)
    recipients = [b"subscriber%d@far.example" % at for at in range(count)]
    made = facts_of_forward(travel, wishes, SENDER, recipients, alone=False)
    assert len(made) <= FACTS_MAX and parse_facts(made).requiretls
    assert [one.orcpt for one in parse_facts(made).recipients] == [orcpt] * told


def test_what_travels_names_nobody() -> None:
    facts = Facts(b"FULL", b"e", True, (RecipientFacts(b"a", notify("NEVER")),))
    assert how_it_travels(facts, SENDER) == format_facts(Facts(smtputf8=True), SENDER)
