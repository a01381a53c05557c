"""Which filter a delivery goes through: control/filterargs, spamfilter and rejectspam by domain (spawn-filter(8)).

A line is ``domain:value``, ``domain:local:value`` or ``domain:remote:value``; the first that fits counts. The domain is
a pattern of shells, or with $QREGEX a regular expression (policy/patterns). After the value may stand variables for the
filter, ``:NAME=text,NAME=text``.
"""

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence

from pyqmail.policy.patterns import PatternList

LOCAL, REMOTE = b"local", b"remote"
LOCAL_WORDS = 10  # qmail-local -- user home local dash ext domain sender default
REMOTE_WORDS = 4  # qmail-remote host sender recipient, and further recipients
_ASSIGNMENT = rb"[A-Za-z_][A-Za-z0-9_]*=(?:[^,\\]|\\,?)*"
_WITH_VARIABLES = re.compile(rb"([^:]*):(%b(?:, *%b)*),?" % (_ASSIGNMENT, _ASSIGNMENT))


class Delivery:
    """One run of qmail-local or qmail-remote, as its ``arguments`` say; ``domain`` is what lines are compared with."""

    __slots__ = ("arguments", "domain", "ext", "place", "recipient", "sender")

    def __init__(self, arguments: Sequence[bytes], place: bytes, environ: Mapping[bytes, bytes]) -> None:
        self.arguments = arguments
        self.place = place
        if place == LOCAL:
            _, _, local, _, self.ext, host, self.sender, _ = arguments[-8:]
            self.recipient = local + b"@" + host
        else:
            host, self.sender, self.recipient = arguments[:3]
            self.ext = b""
        by_sender = b"MATCH_SENDER_DOMAIN" in environ if place == LOCAL else b"MATCH_RECIPIENT_DOMAIN" not in environ
        of_sender = self.sender.rpartition(b"@")[2] if b"@" in self.sender else environ.get(b"DEFAULT_DOMAIN", b"")
        self.domain = of_sender if by_sender else host

    @property
    def variables(self) -> dict[bytes, bytes]:
        """What a filter finds in its environment."""
        return {
            b"DOMAIN": self.domain,
            b"_EXT": self.ext,
            b"_SENDER": self.sender,
            b"_RECIPIENT": self.recipient,
        }


def parse_delivery(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> Delivery | None:
    """By the name in ``argv[0]``, else by the shape of the arguments; None if they are neither's."""
    name = os.path.basename(argv[0])
    is_local = len(argv) == LOCAL_WORDS and argv[1] == b"--"
    if is_local and not name.startswith(b"qmail-remote"):
        return Delivery(argv[1:], LOCAL, environ)
    if len(argv) >= REMOTE_WORDS and not name.startswith(b"qmail-local"):
        return Delivery(argv[1:], REMOTE, environ)
    return None


def find_value(lines: Iterable[bytes], delivery: Delivery, *, regular: bool) -> bytes:
    """What the first line for ``delivery`` says; empty where none does."""
    for line in lines:
        pattern, _, value = line.partition(b":")
        place, colon, rest = value.partition(b":")
        if colon and place in (LOCAL, REMOTE):
            if place != delivery.place:
                continue
            value = rest
        if _fits(pattern, delivery.domain, regular=regular):
            return value
    return b""


def split_variables(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """What stands before the variables, and them; an empty one is to be removed, ``\\,`` is a comma in one.

    Only what has this form from the first colon to the end are variables: any other colon is the command's.
    """
    match = _WITH_VARIABLES.fullmatch(value)
    if match is None:
        return value, {}
    pairs = (each.strip().partition(b"=") for each in re.split(rb"(?<!\\),", match[2]) if each.strip())
    return match[1], {name: text.replace(b"\\,", b",") for name, _, text in pairs}


def with_variables(environ: Mapping[bytes, bytes], variables: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """``environ`` with what a line sets, and without what it sets to nothing."""
    return {name: value for name, value in {**environ, **variables}.items() if value or name not in variables}


def _fits(pattern: bytes, domain: bytes, *, regular: bool) -> bool:
    if regular:
        return PatternList(pattern).match(domain) is not None
    return fnmatch.fnmatchcase(domain.lower(), pattern.lower())
