"""What this server finds out about who sent a message by SPF, DKIM and DMARC, and what it does (qmail-explain(8)).

The check is qmail-smtpd's and the judgement qmail-verifyd's, in this process and as qmail-verifyd's user: what
strangers wrote is not read as root.
"""

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from pyqmail.admin.explain.question import Question
from pyqmail.admin.explain.session import explain_rules
from pyqmail.admin.explain.verdict import DEFERRED, DELIVERABLE, REFUSED, Verdict, say
from pyqmail.admin.rights import drop_rights
from pyqmail.formats.printable import visible
from pyqmail.incoming.check import Evidence, Rules
from pyqmail.incoming.check import Verdict as Found
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.sender_authentication import SAY, SenderAuthentication, behavior
from pyqmail.mailauth.judgement import judge_message, judge_sender, parse_outcome
from pyqmail.mailauth.lookups import CachedLookups, look_up_within
from pyqmail.mailauth.service import MESSAGE_S, SENDER_S
from pyqmail.protocol.verification import Pairs

ANYBODY = b"anybody"  # a recipient; postmaster's mail is not refused
CHUNK = 65536
TEXT_WIDTH = 300  # bytes of what others wrote


def explain_sender(home: str, question: Question) -> None:
    """What SPF says of the client, what DKIM and DMARC say of the text, and what becomes of it. Always raises: Verdict,
    ControlUnreadable, AccountMissing or OSError.
    """
    assert question.ip is not None and question.mail_from is not None
    text = open_text(question.message)
    variables = explain_rules(question.rules, question.ip)
    client = Client(question.ip, b"unknown", None, helo=question.helo, relay=variables.get(b"RELAYCLIENT"))
    if client.relay is not None:
        say("RELAYCLIENT", "set: who sent it is not asked")
        raise Verdict(DELIVERABLE, "by SPF, DKIM and DMARC, which do not count for this client")
    drop_rights(home)
    rules = Rules(home, variables)
    for name in ("spfbehavior", "dmarcbehavior"):
        variable = name.upper().encode()
        number = behavior(rules.control, variables, variable, name)
        say(name, str(number) + ("" if number >= SAY else ": the server does not look; what it would find follows"))
        variables[variable] = b"%d" % max(number, SAY)  # at 1 the server only says, and refuses nobody
    raise judged(Asked(rules, home, text), client, Shown(0, question.mail_from))


def open_text(path: bytes | None) -> BinaryIO | None:
    """The text in a file. Raises Verdict."""
    if path is None:
        return None
    try:
        return open(path, "rb")
    except OSError as error:
        raise Verdict(DEFERRED, f"{visible(path)}: {error.strerror}") from None


def judged(check: "Asked", client: Client, letter: "Shown") -> Verdict:
    """What the server does, asked in qmail-smtpd's order. Raises ControlUnreadable."""
    for ask in (
        partial(check.sender, client, letter),
        partial(check.recipient, client, letter, ANYBODY),
        partial(check.message, client, letter),
    ):
        found = ask()
        if found is not None:
            _say_evidence(found.evidence)
            if found.reply is not None:
                return _refusal(found)
    return Verdict(DELIVERABLE, "by SPF, DKIM and DMARC" + ("" if check.text else "; no --message was looked at"))


def _refusal(found: Found) -> Verdict:
    assert found.reply is not None
    return Verdict(REFUSED if found.reply.code >= 500 else DEFERRED, f"{found.reply.code} {visible(found.reply.text)}")


def _say_evidence(evidence: Evidence) -> None:
    for name, value in evidence:
        say(name.decode("ascii"), visible(value))


class Shown(Letter):
    """A message that goes nowhere: the fields that it would get are said."""

    __slots__ = ()

    def prepend(self, lines: bytes) -> None:
        """Say them."""
        for line in lines.replace(b"\n\t", b" ").splitlines():
            say("field", visible(line))


class Asked(SenderAuthentication):
    """The check, with the judgement made here, and each step of it said. ``text`` is the message's."""

    def __init__(self, rules: Rules, home: str, text: BinaryIO | None) -> None:
        super().__init__(rules)
        self.text = text
        self._tree = home

    def ask_about_sender(self, about: Pairs) -> Pairs:
        """By qmail-verifyd's code. Raises ControlUnreadable."""
        lookups = CachedLookups(look_up_within(self._tree, SENDER_S))
        answer = judge_sender(dict(about), lookups, _tell)
        _say_questions(lookups)
        for name, value in answer:
            if value and name in (b"mechanism", b"problem", b"explanation"):
                _tell("spf " + name.decode("ascii"), visible(value))
        return answer

    def ask_about_text(self, about: Pairs, letter: Letter) -> Pairs:
        """By qmail-verifyd's code. Raises ControlUnreadable and OSError."""
        if self.text is None:
            return []
        lookups = CachedLookups(look_up_within(self._tree, MESSAGE_S))
        answer = judge_message(dict(about), unix_lines(self.text), lookups, _tell)
        _say_questions(lookups)
        for name, value in answer:
            if name == b"dkim" and (outcome := parse_outcome(value)):
                names = f"{visible(outcome.domain)}, selector {visible(outcome.selector)}, {visible(outcome.algorithm)}"
                why = "".join(f", {each}" for each in (outcome.key, outcome.reason) if each)
                _tell("dkim signature", f"{visible(outcome.result)}: {names}{why}")
            elif value and name in (b"author", b"problem", b"policy", b"published"):
                _tell(name.decode("ascii"), visible(value))
        return answer


def _tell(what: str, text: str) -> None:
    say(what, visible(text.encode("ascii", "replace")[:TEXT_WIDTH]))


def _say_questions(lookups: CachedLookups) -> None:
    for name, kind, outcome in lookups.asked:
        _tell("dns", f"{kind.name} {visible(name)}: {outcome}")


def unix_lines(text: BinaryIO) -> Iterator[bytes]:
    """The text in pieces, its CR LF line ends as LF, as SMTP hands it over. Raises OSError."""
    kept = b""
    while piece := text.read(CHUNK):
        piece = kept + piece
        kept = b"\r" if piece.endswith(b"\r") else b""
        yield piece[: len(piece) - len(kept)].replace(b"\r\n", b"\n")
    if kept:
        yield kept
