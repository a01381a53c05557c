"""Queueing a message anew from inside a .qmail program: the Delivered-To line, then descriptor 0 (forward(1))."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHUNK = 65536
# Where none of these is, a word of a command line is one address as it stands; else see formats/address_list.
LIST_MARKS = frozenset(b'<>(),;:"\\ \t\r\n')
REWRITTEN = b"SRSSENDER"  # by qmail-lspawn: what a forward has in the place of SENDER; empty: it has to wait
WISHES = b"QMAILDSN"  # by qmail-lspawn: what the sender wants to hear of this delivery (policy/forwards)
NO_SENDERS = b"@[]"  # how the senders end that are qmail's own
_RECIPIENT = (b"DEFAULT", b"EXT", b"LOCAL", b"RECIPIENT")
_SENDER = (b"SENDER", b"NEWSENDER")


class Fatal(Exception):
    """A .qmail program gives up: exit ``code``, and ``text`` for the log unless it is empty."""

    def __init__(self, code: int, text: bytes) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


def read_recipients(words: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> list[bytes]:
    """The addresses that ``words`` of a command line name, each one or a list of them (addresses(5)).

    What strangers write is never read as a list: in ``"$DEFAULT"@host`` a comma would send their mail anywhere.
    """
    found: list[bytes] = []
    strange = any(not LIST_MARKS.isdisjoint(environ.get(name, b"")) for name in _RECIPIENT)
    senders = [sender for sender in (environ.get(name, b"") for name in _SENDER) if not LIST_MARKS.isdisjoint(sender)]
    for word in words:
        if strange or LIST_MARKS.isdisjoint(word) or any(sender in word for sender in senders):
            found += [word] if word else []
        else:
            from pyqmail.formats.address_list import parse_addresses  # most words are one plain address

            found += parse_addresses(word)
    return found


def rewritten(environ: "Mapping[bytes, bytes]", sender: bytes) -> bytes | None:
    """The sender of a forward that would have ``sender``: another if that is the delivery's own and SRS says so.

    None where it should be another and cannot be told now.
    """
    made = environ.get(REWRITTEN)
    if made is None or not sender or environ.get(b"SENDER", sender) != sender:
        return sender
    return made or None


def wishes_in(environ: "Mapping[bytes, bytes]", sender: bytes) -> bytes:
    """What the sender of the delivery wants to hear of it, if a forward by ``sender`` is still its own."""
    same = sender == environ.get(b"SENDER") or sender and sender == environ.get(REWRITTEN)
    return environ.get(WISHES, b"") if same else b""


def forwarding(
    environ: "Mapping[bytes, bytes]", sender: bytes, recipients: "Sequence[bytes]", *, alone: bool = False
) -> "Mapping[bytes, bytes]":
    """``environ`` with the facts of what ``sender`` forwards, where the message has any (policy/forwards).

    ``alone``: nothing else becomes of the message, which a program of a .qmail file cannot know.
    """
    from pyqmail.intake.client import FACTS

    wishes = wishes_in(environ, sender)
    if not wishes and not environ.get(FACTS):
        return environ
    from pyqmail.policy.forwards import facts_of_forward  # few messages have any

    return {**environ, FACTS: facts_of_forward(environ.get(FACTS, b""), wishes, sender, recipients, alone=alone)}


def resend(program: bytes, environ: "Mapping[bytes, bytes]", sender: bytes, words: "Sequence[bytes]", done: int) -> int:
    """Queue DTLINE and descriptor 0 for the addresses in ``words``; says on descriptor 2 how it went.

    ``done`` when it is queued, 100 when the queue refuses it for good or there is nobody to send to, else 111.
    """
    recipients = read_recipients(words, environ)
    if not recipients:
        complain(program + b": fatal: nobody to send to: no recipients")
        return 100
    try:
        letter, text, number = queue_again(environ, environ[b"DTLINE"], sender, recipients)
    except Fatal as error:
        complain(program + b": fatal: " + error.text)
        return error.code
    if letter == b"K":
        complain(b"%s: qp %d" % (program, number))
        return done
    complain(program + b": fatal: " + text)
    return 100 if letter == b"D" else 111


def queue_again(
    environ: "Mapping[bytes, bytes]", head: bytes, sender: bytes, recipients: "Sequence[bytes]"
) -> tuple[bytes, bytes, int]:
    """Queue ``head`` and descriptor 0: K, D or Z, the text for people, and what names the injection. Raises Fatal."""
    new_sender = rewritten(environ, sender)
    if new_sender is None:
        raise Fatal(111, b"unable to rewrite the sender: see control/srs_secrets")
    from pyqmail.control import home_of  # most programs that complain never queue anything
    from pyqmail.intake.client import Injection

    injection = Injection.open(home_of(environ), forwarding(environ, new_sender, recipients), direct=True)
    injection.write(head)
    try:
        while chunk := os.read(0, CHUNK):
            injection.write(chunk)
    except OSError:
        injection.fail()
    answer = injection.close(new_sender, recipients)
    letter, text = answer.letter_text()
    return letter, text, answer.number


def complain(text: bytes) -> None:
    """One line on descriptor 2; nobody listening changes nothing."""
    try:
        os.write(2, text + b"\n")
    except OSError:
        return


def defers(program: bytes, code: int) -> bool:
    """Whether the exit code of a program that was asked (negative: killed) defers the message; the log is told why."""
    if code < 0:
        complain(program + b": fatal: child crashed")
    elif code == 111:
        complain(program + b": fatal: temporary child error")
    return code < 0 or code == 111
