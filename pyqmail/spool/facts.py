"""The facts of a message on disk: queue/pyqmail/facts/S/N (qmail-queue(8)).

    owner qmailq, group qmail, 0640; one netstring of netstrings:

        facts 1        what this is
        TOKEN          random; todo/N names it too
        LINE           the first line of mess/N
        SIZE           of mess/N, in bytes
        FACTS          as in formats/facts

A number is used again, and another qmail leaves the file where it is: so it names its message, and todo/N names it, by
a record ``p0 facts TOKEN`` before the ordinary ``p``. Another qmail reads that as pid 0, and the last pid counts. What
does not fit is not this message's. mess/N has a bit of its mode set, so that who opens it for a delivery sees without
another look whether there are facts.

The file is made once mess/N has its name, and is on disk with its own before todo/N is linked.
"""

import os
import stat
from collections.abc import Collection
from dataclasses import replace

from pyqmail.formats.facts import ACCEPTED_MAX, FACTS_MAX, Facts, FactsError, belong_to, format_facts, parse_facts
from pyqmail.formats.netstring import NetstringError, format_netstring, format_netstrings, parse_netstrings
from pyqmail.formats.todo import FACTS_RECORD
from pyqmail.spool.draft import Draft
from pyqmail.spool.layout import MARK, Layout
from pyqmail.system import files

KIND = b"facts 1"
LINE_MAX = 1024  # bytes of the first line that are compared
FILE_MAX = FACTS_MAX + 2 * LINE_MAX


class FactsLost(Exception):
    """The file is not there, is torn, of another version, or another message's: waiting does not bring it back."""


def announce(draft: Draft, *, trusted: Collection[int]) -> None:
    """Put the record of its facts before what of ``draft``'s envelope is not written yet; drop facts that do not fit.

    That it comes from another node is believed of the uids ``trusted`` alone, whose qmail-xferd and qmail-shadowd are.

    To be called before the first byte of the envelope is written, when all of it or more than FACTS_MAX have come.
    """
    records = draft.pending.split(b"\0")[:-1]
    sender = next((record[1:] for record in records if record.startswith(b"F")), b"")
    recipients = [record[1:] for record in records if record.startswith(b"T")]
    try:
        fits = belong_to(draft.facts, sender, recipients)
        facts = parse_facts(draft.facts)
    except FactsError:
        fits = False
    if not fits:
        draft.facts = b""
        return
    if facts.transfer is not None and any(b"u%d" % uid in records for uid in trusted):
        draft.transfer = facts.transfer.name
    else:
        if facts.transfer is not None:
            draft.facts = format_facts(replace(facts, transfer=None), sender)
        if len(draft.facts) > ACCEPTED_MAX:  # no other node could take it over with these
            draft.facts = b""
        if not draft.facts:
            return
    draft.token = os.urandom(8).hex().encode()
    draft.pending = FACTS_RECORD + draft.token + b"\0" + draft.pending


def write(layout: Layout, draft: Draft) -> None:
    """Make the file of ``draft``, whose mess/N has its name; all is on disk but the name. Raises OSError."""
    os.fchmod(draft.message, stat.S_IMODE(os.fstat(draft.message).st_mode) | MARK)
    files.sync(draft.message)
    path = layout.facts(draft.number)
    files.unlink_if_present(path)  # of a message that had the number before
    fd = files.create_exclusive(path, 0o640)
    try:
        files.write_all(fd, _format(draft.token, draft.message, draft.facts))
        files.sync(fd)
    finally:
        os.close(fd)


def _format(token: bytes, message: int, facts: bytes) -> bytes:
    line, size = _identity(message)
    return format_netstring(format_netstrings([KIND, token, line, b"%d" % size, facts]))


def _identity(message: int) -> tuple[bytes, int]:
    """The first line of the open file of a message, and its size."""
    return os.pread(message, LINE_MAX, 0).partition(b"\n")[0], os.fstat(message).st_size


def unpack(data: bytes, message: int, token: bytes | None = None) -> bytes:
    """The bytes of the facts in a file's ``data``, if they are the open ``message``'s. Raises FactsLost, OSError.

    ``token`` is what todo/N says, if that is still there.
    """
    try:
        (inner,) = parse_netstrings(data)
        kind, own, line, size, facts = parse_netstrings(inner)
        if kind != KIND or (line, size) != (_identity(message)[0], b"%d" % _identity(message)[1]):
            raise FactsLost
        if token is not None and token != own:
            raise FactsLost
        return facts
    except (ValueError, NetstringError):
        raise FactsLost from None


def beside(message: int, path: str) -> bytes:
    """The bytes of the facts in the file ``path``, if they are the open ``message``'s; else none. Raises OSError."""
    try:
        return unpack(files.read_file(path, FILE_MAX), message)
    except (FileNotFoundError, FactsLost):
        return b""


def read(layout: Layout, number: int, token: bytes | None = None) -> Facts:
    """The facts of message ``number``. Raises FactsLost, and OSError where a later look may help."""
    try:
        data = files.read_file(layout.facts(number), FILE_MAX)
    except FileNotFoundError:
        os.stat(os.path.dirname(layout.facts(number)))
        raise FactsLost from None
    message = files.open_read(layout.mess(number))
    try:
        return parse_facts(unpack(data, message, token))
    except FactsError:
        raise FactsLost from None
    finally:
        os.close(message)
