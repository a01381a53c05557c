"""For which messages we vouch, so that they may have our signature: read from the trace above them (qmail-remote(8)).

Signing is no oracle. What comes from the network is signed if it came from a relay client, if its user may use its
From, or if DMARC has passed for that; each is what our own servers wrote above their Received, where no client can.
Light: qmail-smtpd writes what qmail-remote reads.
"""

import os
import re
from collections.abc import Iterator

from pyqmail.mailauth.results import Result, parse_results

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyqmail.mailauth.canonical import Field

_QUEUED = re.compile(rb"[ \t]*\(qmail \d+ invoked ([a-z0-9 ]+)\);")
# Who relays, or is a client of QMQP, as our servers say it.
_RELAYS = re.compile(
    rb"[ \t]*from [^\n]*\n[ \t]+by \S+ with (?:QMQP\b|E?SMTPS?(?: \([^()\n]* encrypted\))? \(relay client\);"
    rb"|QMTP \(relay client\);)"
)
_LOCAL_SMTP = re.compile(rb"[ \t]*from [^\n]*\(sendmail-bs@127\.0\.0\.1\)\n[ \t]+by \S+ with SMTP \(relay client\);")


def domains_from(author: bytes) -> Iterator[bytes]:
    """``author`` and the domains above it, whose keys may sign for it, the nearest first."""
    while author:
        yield author
        author = author.partition(b".")[2]


def has_keys(home: str, author: bytes) -> bool:
    """Whether some key may sign for ``author``; yes where this process may not look."""
    try:
        return any(_is_there(f"{home}/control/domainkeys/{os.fsdecode(domain)}") for domain in domains_from(author))
    except OSError:
        return True


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def user_result(user: bytes, author: bytes) -> Result:
    """The ``auth`` result (RFC 8601 section 2.7.4) of a session whose ``user``, if told, has proved to be one.

    ``author`` is the domain of a From that the user may use, and empty for any other.
    """
    return Result(b"auth", b"pass", [(b"smtp.auth", user), (b"policy.from", author)])


def vouched(fields: "Sequence[Field]", author: bytes, authserv_id: bytes, *, entered: bool = False) -> bool:
    """Whether we may sign: it was made here, or comes from who may send ``author``'s mail through us.

    Read from the top down to the first session; what stands below that, the client has written. ``entered``: a server
    is handing the message on, and nothing of qmail-queue stands above its Received.
    """
    results = list[bytes]()
    for field in fields:
        if field.name == b"authentication-results" and entered:
            results.append(field.body)
        if field.name != b"received":
            continue
        queued = _QUEUED.match(field.body)
        if queued:
            entered, results = queued[1] in (b"from network", b"by uid %d" % os.getuid()), []
        elif entered:
            return bool(_RELAYS.match(field.body)) or any(_passes(each, author, authserv_id) for each in results)
        else:  # it came in by some other way than a server of ours, and anybody may have written the rest
            return bool(_LOCAL_SMTP.match(field.body))
    # ezmlm may take all Received fields of others away.
    return all(field.name != b"mailing-list" for field in fields)


def _passes(body: bytes, author: bytes, authserv_id: bytes) -> bool:
    writer, results = parse_results(body)
    return writer == authserv_id and any(_is_pass(each, author) for each in results)


def _is_pass(result: Result, author: bytes) -> bool:
    if result.result != b"pass":
        return False
    if result.method == b"auth":
        return result.get(b"policy.from").lower() == author
    return result.method == b"dmarc" and result.get(b"header.from").lower() == author
