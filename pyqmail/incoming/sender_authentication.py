"""Who sent it: SPF at the sender, DKIM and DMARC over the text, asked of qmail-verifyd (qmail-verifyd(8), RFC 9989).

control/spfbehavior and control/dmarcbehavior, or $SPFBEHAVIOR and $DMARCBEHAVIOR of a rule, say what is done:

    SPF    1 say, 2 also 451 where nobody answers, 3 refuse fail, 4 softfail, 5 neutral, 6 none and mistakes
    DMARC  1 say, 2 also 451, 3 refuse what p=reject asks for, 4 also mark what p=quarantine asks for

Relay clients and users are not asked about. What is not enforced is rehearsed: ``rehearsal=`` names who would have been
refused at 3. With a key in control/domainkeys for the domain of its From a message is looked at whatever the numbers
say: qmail-remote signs it, if it is forwarded, only where DMARC has passed.
"""

from collections.abc import Mapping

from pyqmail.control import Control, parse_integer
from pyqmail.incoming.check import Check, Evidence, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.mailauth.results import own_authserv_id
from pyqmail.mailauth.vouching import has_keys
from pyqmail.protocol.reply import Reply

SAY, LATER, REFUSE, MARK = 1, 2, 3, 4
REFUSED_FROM = {b"fail": 3, b"softfail": 4, b"neutral": 5, b"none": 6, b"permerror": 6}  # by SPF's numbers
REASON_MAX = 300  # bytes of a refusal that come from elsewhere; an SMTP reply has 512


class SenderAuthentication(Check):
    """spfbehavior and dmarcbehavior."""

    name = "spf, dkim, dmarc"

    def __init__(self, rules: Rules) -> None:
        self._home = rules.home
        self._control = rules.control
        self._spf = behavior(rules.control, rules.environ, b"SPFBEHAVIOR", "spfbehavior")
        self._dmarc = behavior(rules.control, rules.environ, b"DMARCBEHAVIOR", "dmarcbehavior")
        self._asks_all = max(self._spf, self._dmarc) >= SAY
        self._has_keys = rules.has("domainkeys")
        self.active = self._asks_all or self._has_keys
        self._letter: Letter | None = None  # whose sender has been judged
        self._sender: dict[bytes, bytes] = {}

    def holds(self, client: Client) -> bool:
        return client.relay is None and client.user is None

    def sender(self, client: Client, letter: Letter) -> Verdict | None:
        self._letter = None
        if not self.holds(client):
            return None
        self._letter, self._sender = letter, {}
        if not self._asks_all:
            return None
        evidence = self._learn_sender(client, letter)
        if self._would_refuse(REFUSE) and not self._would_refuse(self._spf):
            evidence += ((b"rehearsal", b"spf:" + self._sender.get(b"domain", b"")),)
        return Verdict(None, evidence)

    def _learn_sender(self, client: Client, letter: Letter) -> Evidence:
        found = self.ask_about_sender(self._about(client, letter))
        self._sender = dict(found or [(b"spf", b"temperror"), (b"problem", b"qmail-verifyd does not answer")])
        return ((b"spf", self._sender[b"spf"]),)

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        if self._letter is not letter or address.partition(b"@")[0].lower() == b"postmaster":
            return None
        if self._spf >= LATER and self._sender[b"spf"] == b"temperror":
            return Verdict(Reply(451, b"SPF of your domain cannot be looked up at the moment (#4.4.3)"))
        return Verdict(self._spf_refusal(client)) if self._would_refuse(self._spf) else None

    def message(self, client: Client, letter: Letter) -> Verdict | None:
        if self._letter is not letter:
            return None
        from pyqmail.incoming.sender_results import Judgement

        letter.without_results_of(self._authserv_id)
        asks_text = self._dmarc >= SAY or self._has_keys and self._is_of_our_own(letter)
        if not asks_text and not self._sender:
            return None
        evidence = () if self._sender else self._learn_sender(client, letter)
        about = [(b"spf", self._sender[b"spf"]), (b"domain", self._sender.get(b"domain", b"")), (b"ip", client.ip)]
        about.append((b"local", self._sender.get(b"local", b"")))
        about.append((b"behavior", b"%d" % self._dmarc))  # for reports to the author's domain
        judgement = Judgement(self._sender, self.ask_about_text(about, letter) if asks_text else [])
        verdict = self._judged(judgement)
        if judgement.asked_text:
            letter.tell_program(b"DMARCRESULT", judgement.dmarc)
        marked = self._dmarc >= MARK and judgement.failed_for == b"quarantine"
        letter.prepend(judgement.fields(self._authserv_id, client, letter.sender, marked=marked))
        return Verdict(verdict.reply, evidence + verdict.evidence)

    def _is_of_our_own(self, letter: Letter) -> bool:
        """Whether its author's domain has a key here."""
        from pyqmail.incoming.own_author import author_of

        author = author_of(letter)
        return bool(author) and has_keys(self._home, author)

    def ask_about_sender(self, about: "Pairs") -> "Pairs | None":
        """What is known of the sender; None where nobody says. Never raises."""
        from pyqmail.mailauth.client import ask_about_sender

        return ask_about_sender(self._home, about)

    def ask_about_text(self, about: "Pairs", letter: Letter) -> "Pairs":
        """What is known of the text, nothing where it is not held. Never raises."""
        from pyqmail.incoming.sender_results import UNANSWERED
        from pyqmail.mailauth.client import ask_about_message

        if letter.held is None:
            return []
        return ask_about_message(self._home, about, letter.held.fd) or UNANSWERED

    def _judged(self, judgement: "Judgement") -> Verdict:
        evidence = judgement.evidence
        reply = None
        white = judgement.signed_by(self._control.lines("dmarcwhite") or ()) if self._dmarc >= SAY else False
        if self._dmarc >= SAY and judgement.refusable and not white:
            if self._dmarc >= REFUSE:
                reply = judgement.refusal
            else:
                evidence += ((b"rehearsal", b"dmarc:" + (judgement.author or b"?")),)
        if self._dmarc >= LATER and judgement.unsure:
            reply = Reply(451, b"DKIM and DMARC cannot be looked up at the moment (#4.4.3)")
        return Verdict(reply, evidence)

    def _about(self, client: Client, letter: Letter) -> list[tuple[bytes, bytes]]:
        control = self._control
        return [
            (b"ip", client.ip),
            (b"helo", client.helo or b""),
            (b"sender", letter.sender),
            (b"receiver", self._authserv_id),
            (b"rules", control.line("spfrules") or b""),
            (b"explanation", control.line("spfexp") or b""),
        ]

    def _would_refuse(self, behavior: int) -> bool:
        """Whether ``behavior`` refuses this sender. With DMARC enforced a fail counts where nothing else could pass."""
        result = self._sender.get(b"spf", b"")
        if behavior < REFUSED_FROM.get(result, 99):
            return False
        return result != b"fail" or self._dmarc < REFUSE or self._sender.get(b"alone") == b"1"

    def _spf_refusal(self, client: Client) -> Reply:
        from pyqmail.formats.printable import printable

        domain, why = self._sender.get(b"domain", b""), self._sender.get(b"explanation", b"")
        why = why or b"SPF: %b is not to send for it: %b" % (client.ip, self._sender[b"spf"])
        return Reply(550, printable((b"%b: %b" % (domain, why))[:REASON_MAX]) + b" (#5.7.23)")

    @property
    def _authserv_id(self) -> bytes:
        return own_authserv_id(self._control)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.incoming.sender_results import Judgement
    from pyqmail.protocol.verification import Pairs


def behavior(control: Control, environ: Mapping[bytes, bytes], variable: bytes, name: str) -> int:
    """The number of a rule's variable, else of the control file; 0 without either. Raises ControlUnreadable."""
    text = environ.get(variable)
    if text is not None:
        return parse_integer(text) or 0
    return control.integer(name, 0)
