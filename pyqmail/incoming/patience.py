"""How much a session may ask of us: a delay before the greeting, errors, and its whole time (qmail-smtpd(8)).

$SMTPD_GREETDELAY: seconds before the greeting, not for relay clients and those in control/greetdelay.white.
$DROP_PRE_GREET: who talks meanwhile must go. $SMTPD_ERRORLIMIT: refused commands in a session. $SMTPD_SESSIONLIMIT:
seconds that it may last. All are variables, so that a rule of tcpserver can set them for some, and a session without
them costs nothing more.
"""

import time
from collections.abc import Mapping
from functools import lru_cache

from pyqmail.incoming.check import Rules
from pyqmail.incoming.client import Client
from pyqmail.stream.lines import LineReader
from pyqmail.stream.stream import Stream, StreamTimedOut

VARIABLES = frozenset((b"SMTPD_GREETDELAY", b"DROP_PRE_GREET", b"SMTPD_ERRORLIMIT", b"SMTPD_SESSIONLIMIT"))
GREETDELAY_MAX = 300
LAST_WORDS_S = 10.0  # to take them, for a client whose time is over


class Patience:
    """What one session has used of it."""

    def __init__(self, environ: Mapping[bytes, bytes]) -> None:
        self.delay_s = min(GREETDELAY_MAX, number(environ.get(b"SMTPD_GREETDELAY", b"")))
        self._drops_early = environ.get(b"DROP_PRE_GREET", b"") not in (b"", b"0")
        self._errors_max = number(environ.get(b"SMTPD_ERRORLIMIT", b""))
        self._errors = 0
        session_s = number(environ.get(b"SMTPD_SESSIONLIMIT", b""))
        self._deadline = time.monotonic() + session_s if session_s else None

    def limit(self, stream: Stream) -> None:
        """Let ``stream`` last no longer than the session may."""
        if self._deadline is not None:
            stream.until(self._deadline)

    def give_last_words(self, stream: Stream) -> None:
        """Let a client whose time is over hear so."""
        if self._deadline is not None:
            stream.until(time.monotonic() + LAST_WORDS_S)

    def wait_before_greeting(self, stream: Stream, lines: LineReader) -> bool:
        """Wait; whether the client has talked meanwhile, and must go. Raises StreamEnded."""
        until = time.monotonic() + self.delay_s
        stream.until(until if self._deadline is None else min(until, self._deadline))
        try:
            lines.unread(lines.read())
            early = True
        except StreamTimedOut:
            early = False
        stream.until(self._deadline)
        if early and not self._drops_early:
            time.sleep(max(0.0, until - time.monotonic()))
        return early and self._drops_early

    def exhausted(self) -> bool:
        """One more refusal: whether it is the last that this client gets."""
        if not self._errors_max:
            return False
        self._errors += 1
        return self._errors >= self._errors_max


def waits_for_nobody(rules: Rules, client: Client) -> bool:
    """Whether ``client`` is greeted at once: it may relay, or control/greetdelay.white lists it.

    Raises ControlUnreadable.
    """
    if client.relay is not None:
        return True
    from pyqmail.policy.exceptions import Exceptions  # few delay anybody

    white = rules.control.made("greetdelay.white", Exceptions)
    return white is not None and white.has_client(client.ip, client.host)


@lru_cache(maxsize=64)  # of what rules say
def number(text: bytes) -> int:
    """The digits at its beginning, 0 without any."""
    if not text:
        return 0
    digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
    return int(digits[:9] or b"0")


WITHOUT_END = Patience({})  # which never changes, and so serves all


def patience_of(environ: Mapping[bytes, bytes]) -> Patience:
    """What the variables say of one session."""
    return WITHOUT_END if VARIABLES.isdisjoint(environ) else Patience(environ)
