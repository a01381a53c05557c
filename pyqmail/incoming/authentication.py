"""AUTH at the door: whether a session has it, needs it, and who checks the password (qmail-smtpd(8), RFC 4954).

$SMTPAUTH switches it on: ``!`` at its beginning refuses mail without it, ``+cram`` adds CRAM-MD5, ``cram`` has nothing
else, ``-`` and ``0`` are off, any other word is LOGIN and PLAIN. Without TLS a password is taken only if $FORCETLS is
0. The checker is the program on the command line, executed in the classic way; where there is none, qmail-authd.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence

from pyqmail.control import Control
from pyqmail.formats.logline import safe
from pyqmail.incoming.client import by_sendmail
from pyqmail.incoming.refusals import (
    LOGGED_IN,
    LOGIN_AFTER_TLS,
    LOGIN_CANCELLED,
    LOGIN_FAILED,
    LOGIN_FIRST,
    LOGIN_MALFORMED,
    LOGIN_UNKNOWN,
    NO_SUCH_LOGIN,
)
from pyqmail.incoming.session import Session
from pyqmail.login.answer import Answer
from pyqmail.protocol.reply import Reply
from pyqmail.system.process import WorkingIn, find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.protocol.sasl import Credentials, Exchange

FAILURES_MAX = 3  # wrong passwords in one session
FAILURE_S = 5.0  # from a password to the answer that it is wrong, as the family waits
USER_MAX = 256  # bytes of a name in the log
ACCEPTED = Reply(235, b"ok, go ahead (#2.0.0)")


class Authentication:
    """What one session does about AUTH. ``mechanisms`` is None where there is none."""

    mechanisms: bytes | None = None
    required = False
    _needs_tls = False
    _checker: Sequence[bytes] = ()

    def __init__(self, control: Control, words: Sequence[bytes], environ: Mapping[bytes, bytes]) -> None:
        """``words`` is the command line behind the program. Raises ControlUnreadable."""
        self.failures = 0
        setting = environ.get(b"SMTPAUTH")
        if setting is None or by_sendmail(environ):
            return
        self.mechanisms = mechanisms(setting)
        if self.mechanisms is None:
            return
        self._checker = checker(words, control, environ)
        self.required = setting.startswith(b"!")
        self._needs_tls = environ.get(b"FORCETLS") != b"0"
        self._control = control
        self._home = control.directory.removesuffix("/control")

    def offer(self, *, secured: bool) -> bytes | None:
        """The mechanisms to offer now: none before TLS, None where there is no AUTH at all."""
        return b"" if self.mechanisms is not None and self._needs_tls and not secured else self.mechanisms

    def missing(self, user: bytes | None) -> Reply | None:
        """The refusal of MAIL from a client that must say first who it is."""
        return LOGIN_FIRST if self.required and user is None else None

    def answer(
        self,
        argument: bytes,
        session: Session,
        hear: Callable[[], bytes],
        say: Callable[[bytes], None],
        admitted: Callable[[bytes, bytes], Reply | None],
    ) -> Reply:
        """The reply to AUTH after the whole exchange; ``admitted`` may refuse a user and method with a right password.

        Raises what ``hear``, ``say`` and ``admitted`` raise.
        """
        offered = self.offer(secured=session.client.secured is not None)
        if session.client.user is not None:
            return LOGGED_IN
        if not offered:
            return LOGIN_AFTER_TLS
        from pyqmail.protocol.sasl import CRAM_MD5, Cancelled, Malformed, begin

        exchange = begin(argument, offered, self._challenge() if CRAM_MD5 in offered else b"")
        if exchange is None:
            return NO_SUCH_LOGIN
        try:
            credentials = converse(exchange, hear, say)
        except Cancelled:
            return LOGIN_CANCELLED
        except Malformed:
            return LOGIN_MALFORMED
        return self._judge(credentials, session, admitted)

    def _challenge(self) -> bytes:
        """What a digest is made of, never the same again (RFC 2195). Raises ControlUnreadable."""
        return b"<%d.%d@%b>" % (os.getpid(), time.time_ns(), self._control.me() or b"localhost")

    def _judge(
        self, credentials: "Credentials", session: Session, admitted: Callable[[bytes, bytes], Reply | None]
    ) -> Reply:
        started = time.monotonic()
        found, user = self._check(credentials, session) if credentials.possible else (Answer.NO, b"")
        words = (credentials.method, safe(credentials.user[:USER_MAX]), safe(session.client.ip[:64]))
        result = b"success" if found is Answer.YES else b"failed" if found is Answer.NO else b"deferred"
        session.log.say(b"auth: auth-%b type=%b user=<%b> ip=%b" % (result, *words))
        if found is Answer.YES:
            refusal = admitted(user, credentials.method)
            if refusal is not None:
                return refusal
            session.authenticated(user, credentials.method)
            return ACCEPTED
        self.failures += 1
        if found is Answer.LATER:
            return LOGIN_UNKNOWN
        if self._checker or not credentials.possible:
            time.sleep(max(0.0, started + FAILURE_S - time.monotonic()))
        return LOGIN_FAILED

    def _check(self, credentials: "Credentials", session: Session) -> tuple[Answer, bytes]:
        """The answer, and the name that the user is known by."""
        assert self.mechanisms is not None
        if self._checker:
            from pyqmail.login.checker import run_checker

            third = b"CRAM" in self.mechanisms
            answer = run_checker(self._checker, credentials, session.environ, self._home, third=third)
            return answer, credentials.user
        from pyqmail.login.client import ask

        return ask(self._home, credentials, session.client.ip)


def converse(exchange: "Exchange", hear: Callable[[], bytes], say: Callable[[bytes], None]) -> "Credentials":
    """Ask the client what the exchange wants to know. Raises Cancelled and Malformed."""
    try:
        challenge = next(exchange)
        from pyqmail.protocol.sasl import encode  # not for who has said all with the command

        while True:
            say(encode(challenge))
            challenge = exchange.send(hear())
    except StopIteration as end:
        found: Credentials = end.value
        return found


def mechanisms(setting: bytes | None) -> bytes | None:
    """What $SMTPAUTH offers; None for nothing."""
    if setting is None or setting.startswith((b"-", b"0")):
        return None
    word = setting.removeprefix(b"!").lower()
    return {b"cram": b"CRAM-MD5", b"+cram": b"LOGIN PLAIN CRAM-MD5"}.get(word, b"LOGIN PLAIN")


def checker(words: Sequence[bytes], control: Control, environ: Mapping[bytes, bytes]) -> Sequence[bytes]:
    """The checker's command line in ``[host] checker program``; empty where there is none.

    The first of three or more words is the host if it looks like one and is no program: a checker that is not installed
    must never make a checker of the ``true`` behind it.
    """
    if len(words) < 2:
        return ()
    first = words[0]
    host = b"/" not in first and (b"." in first or first == control.me())
    if not host or len(words) < 3:
        return words
    with WorkingIn(control.directory.removesuffix("/control")):
        return words[1:] if find_program(first, environ.get(b"PATH")) is None else words
