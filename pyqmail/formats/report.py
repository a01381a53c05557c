"""What a delivery's exit status and output become on the wire to qmail-send (qmail-lspawn(8), qmail-rspawn(8)).

A report is a letter (K success, Z deferral, D failure) and a text without NUL. A status is an exit code, or None for a
child that was killed.
"""

import re
from dataclasses import dataclass

from pyqmail.exits import SpawnExit

LOCAL_LIMIT = 3000  # bytes of a local report
LOCAL_KEPT = 2966  # what stays of a longer one
READ_SIZE = 128  # the limit is looked at after each read of this size
TOO_LONG = b"\n[report too long, it was cut]\n"  # makes 2997 with what stays

_LOCAL_NOTES = {
    SpawnExit.USAGE: b"Trouble inside qmail-lspawn.\n",
    SpawnExit.ROOT: b"Not allowed to deliver as root.\n",
    SpawnExit.NO_HOME: b"The home directory cannot be reached at the moment.\n",
    SpawnExit.NO_ALIAS: b"There is no alias account.\n",
    SpawnExit.CDB: b"Trouble reading users/cdb.\n",
    SpawnExit.SYSTEM: b"Trouble with system resources in qmail-lspawn.\n",
    SpawnExit.NO_MEMORY: b"Out of memory in qmail-lspawn.\n",
    SpawnExit.EXEC_TEMPORARY: b"Unable to run qmail-local.\n",
    SpawnExit.EXEC_GETPW: b"Unable to run qmail-getpw.\n",
}
_LOCAL_SOFT = (111, 71, 74, 75)  # qmail-local's temporary, and EX_OSERR, EX_IOERR, EX_TEMPFAIL of other mailers
FACTS_VARIABLE = b"PYQMAIL_FACTS"  # in the environment of qmail-remote: what is known beside the envelope
PASSED_ON = b"\nThe other server was asked to tell of the delivery.\n"  # of a success where DSN was passed on
FORWARDED = b"Whether the sender hears of it is decided where this was forwarded to.\n"  # and nothing else
EXPANDED = b"The sender may hear of failures where this was forwarded to.\n"
_RANK = {b"D": -1, b"Z": 0, b"K": 1}
NOT_AT_ONCE = b" takes fewer recipients at once. (#4.5.3)\n"  # of a recipient that was not named to the other host
_TOO_MANY = (b"\nRemote host said: 452", b"\nRemote host said: 552", NOT_AT_ONCE)


# of a delivery that was not tried, by control/remotelimits; what another host says never stands at a report's start
_HELD_BACK = re.compile(rb"Held back: (\S{1,255}) (?:gets no message for (\d{1,9}) seconds|has all of its (\d{1,5}) )")


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A delivery that was not tried: ``exchangers`` get nothing for ``pause_s``, or have all their ``connections``."""

    exchangers: bytes
    pause_s: int
    connections: int


def paused(exchangers: bytes, pause_s: int) -> bytes:
    """The text of a deferral of what is not tried for ``pause_s`` seconds; ``exchangers`` without blanks."""
    return b"Held back: %b gets no message for %d seconds. (#4.4.5)" % (exchangers, pause_s)


def all_in_use(exchangers: bytes, connections: int) -> bytes:
    """The text of a deferral of what waits for one of so many ``connections``."""
    return b"Held back: %b has all of its %d connections. (#4.4.5)" % (exchangers, connections)


def held_back(letter: bytes, text: bytes) -> HeldBack | None:
    """What a report says of a delivery that was not tried; None where it was."""
    found = _HELD_BACK.match(text) if letter == b"Z" else None
    return HeldBack(found[1], int(found[2] or 0), int(found[3] or 0)) if found else None


def append_local(stored: bytearray, data: bytes) -> None:
    """Add ``data`` to the output of a local delivery, cut where the whole grows longer than a report may be."""
    for start in range(0, len(data), READ_SIZE):
        stored += data[start : start + READ_SIZE]
        if len(stored) > LOCAL_LIMIT:
            stored[LOCAL_KEPT:] = TOO_LONG


def append_remote(stored: bytearray, data: bytes) -> None:
    """Add ``data`` to the output of a remote delivery; qmail-send does the cutting."""
    stored += data


def local_report(status: int | None, output: bytes) -> bytes:
    """The report on a qmail-local that ended with ``status`` (qmail-lspawn(8))."""
    text = output.partition(b"\0")[0]
    if status is None:
        return b"Zqmail-local crashed.\n"
    if status in _LOCAL_NOTES:
        return b"Z" + _LOCAL_NOTES[status]
    if status == SpawnExit.EXEC_PERMANENT:
        return b"DUnable to run qmail-local.\n"
    if status == 0:
        return b"K" + text
    return (b"Z" if status in _LOCAL_SOFT else b"D") + text


def remote_report(status: int | None, output: bytes) -> bytes:
    """The report on a qmail-remote that ended with ``status`` (qmail-rspawn(8))."""
    if status is None:
        return b"Zqmail-remote crashed.\n"
    if status == 111:
        return b"ZUnable to run qmail-remote.\n"
    if status != 0:
        return b"DUnable to run qmail-remote.\n"
    if not output:
        return b"Zqmail-remote said nothing.\n"
    records = output.split(b"\0")[:-1]
    message = next((record[:1] for record in records if record[:1] in _RANK), b"D")
    letter = {b"s": b"Z", b"h": b"D"}.get(output[:1], message)
    text = records[0][1:] if records else b""
    if len(records) > 1 and records[1][:1] in _RANK and _RANK[message] <= _RANK[letter]:
        text += records[1][1:]
    return letter + text


def with_recipients(output: bytes, count: int) -> list[bytes]:
    """What qmail-remote would have printed for each of its ``count`` recipients alone: its record and the message's.

    A recipient that it did not come to has no record.
    """
    records = output.split(b"\0")[:-1]
    at = next((at for at, record in enumerate(records) if record[:1] in _RANK), len(records))
    message = b"".join(record + b"\0" for record in records[at : at + 1])
    own = [record + b"\0" for record in records[: min(at, count)]]
    return [one + message for one in own + [b""] * (count - len(own))]


def too_many(one: bytes, output: bytes) -> bool:
    """Whether a recipient was only one too many of those in ``output``: they may follow at once in a message of theirs.

    That is 452, or 552 taken for it, after others were accepted (RFC 5321 section 4.5.3.1.10), or LIMITS (RFC 9422).
    """
    text = one.partition(b"\0")[0]
    said = any(words in text for words in _TOO_MANY)
    return one[:1] == b"s" and said and output[:2] == b"r\0"
