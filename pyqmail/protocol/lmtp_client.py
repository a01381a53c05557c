"""A transaction with an LMTP server, which answers for each recipient when it has the message (RFC 2033)."""

from collections.abc import Generator

from pyqmail.protocol.smtp_replies import Reply, quoted_reply
from pyqmail.protocol.smtp_transaction import Await, SendBody, Step, Transaction, verdict


class LmtpTransaction(Transaction):
    """As its base, but the report of a recipient that was accepted is that of its own answer to the message."""

    HELLOS = (b"LHLO",)

    def _send_message(self) -> Generator[Step, Reply, bytes]:
        self._unanswered = [at for at, report in enumerate(self.reports) if report == b"r"]
        reply = yield SendBody()
        taken: Reply | None = None
        while True:  # equal recipients are answered one by one, too
            at = self._unanswered.pop(0)
            if reply.code < 400:
                taken = reply
            else:
                letter = b"h" if reply.code >= 500 else b"s"
                text = self._peer + b" failed after I sent the message.\n" + quoted_reply(reply)
                self.reports[at] = letter + text
            if not self._unanswered:
                break
            reply = yield Await()
        return verdict(b"K", self._peer + b" accepted message", taken) if taken else self._refusal()

    def lost(self, text: bytes, *, sent: bool) -> bytes:
        """What was answered stands; after the message recipients without an answer are put off with ``text``."""
        if not sent:
            return super().lost(text, sent=sent)
        for at in self._unanswered:
            self.reports[at] = b"s" + text
        self.reports += [b"s" + text] * len(self.left)
        return b"K" + self._peer + b" accepted message.\n" if b"r" in self.reports else self._refusal()

    def _refusal(self) -> bytes:
        """The message report where nobody got it; the recipients' own say why."""
        later = any(report[:1] == b"s" for report in self.reports)
        return (b"Z" if later else b"D") + b"Giving up on " + self._peer + b".\n"
