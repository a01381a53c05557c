"""qmail-dkim: in the place of qmail-queue, signs a message or says what its signatures are worth (qmail-dkim(8)).

Message on descriptor 0; descriptor 1, the envelope or the output of a filter, is left to the program that is executed
in the end, in our place and with a file that is whole. Whatever happens before, nothing is handed on.
"""

import os
import time
from collections.abc import Mapping, Sequence

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.exits import QueueExit
from pyqmail.intake.queue_programs import hand_on, refuse
from pyqmail.mailauth.author import BadAuthor, author_domain
from pyqmail.mailauth.canonical import BadHeader, Field, parse_fields, split_message
from pyqmail.mailauth.client import ask_about_message
from pyqmail.mailauth.judgement import judge_message, parse_outcome
from pyqmail.mailauth.key_files import KeyFileUnusable
from pyqmail.mailauth.letters import WORDS, letter_of
from pyqmail.mailauth.lookups import CachedLookups, look_up_within
from pyqmail.mailauth.results import authserv_id, own_authserv_id
from pyqmail.mailauth.service import MESSAGE_S
from pyqmail.mailauth.signing import hash_body, sign
from pyqmail.mailauth.signing_variables import further_tags, keys_for
from pyqmail.mailauth.vouching import vouched
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.remote.signatures import as_received
from pyqmail.system.unnamed import pieces, rest_of, store

OWN_CLIENT = (b"RELAYCLIENT", b"AUTHINFO")  # set where a client may send anything


class Refused(Exception):
    """The message is not handed on; the text is D or Z and what the client hears."""


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """The exit codes are those of qmail-queue; 82 or 88 with a text for what is refused."""
    home = home_of(environ)
    try:
        message = store(rest_of(0))
        if above := fields_above(home, environ, message):
            message = store([above, *pieces(message)])
    except Refused as refused:
        return refuse(environ, str(refused).encode("ascii", "replace"))
    except KeyFileUnusable as error:
        return refuse(environ, f"ZUnable to use the DKIM key {error.place}: {error.why} (#4.3.0)".encode())
    except (ControlUnreadable, AccountMissing):
        return QueueExit.CONFIGURATION
    except OSError:
        return QueueExit.READ_ERROR
    return hand_on(home, environ.get(b"DKIMQUEUE", b""), environ, {0: message}, without=(b"DKIMQUEUE",))


def fields_above(home: str, environ: Mapping[bytes, bytes], message: int) -> bytes:
    """What is to stand above the message. Raises Refused, KeyFileUnusable, ControlUnreadable, AccountMissing and
    OSError."""
    ours = any(name in environ for name in OWN_CLIENT)
    if b"DKIMSIGN" in environ or b"DKIMVERIFY" not in environ and ours:
        return signatures(home, environ, message)
    if ours and b"RELAYCLIENT_NODKIMVERIFY" in environ:
        return b""
    return status(home, environ.get(b"DKIMVERIFY", b""), message)


def signatures(home: str, environ: Mapping[bytes, bytes], message: int) -> bytes:
    """A signature by each key; none where we do not vouch for the message, or nobody can say whose it is."""
    try:
        header, body = split_message(as_received(pieces(message)))
        fields = parse_fields(header)
        author = author_domain(fields)
    except (BadHeader, BadAuthor):
        return b""
    if not may_sign(home, environ, fields, author):
        return b""
    keys = keys_for(home, environ, author)
    return sign(fields, hash_body(body), keys, int(time.time()), more=further_tags(environ)) if keys else b""


def may_sign(home: str, environ: Mapping[bytes, bytes], fields: Sequence[Field], author: bytes) -> bool:
    """Whether we vouch for it: by its trace, or by the word of a server that writes none of that."""
    name = own_authserv_id(Control(home))
    if vouched(fields, author, name, entered=os.getuid() == read_accounts(home).uid_daemon):
        return True
    told = any(each.name == b"authentication-results" and authserv_id(each.body) == name for each in fields)
    return not told and any(each in environ for each in OWN_CLIENT)


def status(home: str, wanted: bytes, message: int) -> bytes:
    """DKIM-Status, by qmail-verifyd where it runs. Raises Refused for a letter that is in ``wanted``."""
    answer = ask_about_message(home, [], message)
    if answer is None:
        answer = judge_message({}, pieces(message), CachedLookups(look_up_within(home, MESSAGE_S)))
    outcomes = [found for name, value in answer if name == b"dkim" and (found := parse_outcome(value))]
    control = Control(home)
    signers, exempt = (control.lines(name) or () for name in ("signaturedomains", "nosignaturedomains"))
    letter = letter_of(outcomes, dict(answer).get(b"author", b""), signers, exempt)
    if letter in wanted:
        raise Refused(f"DDKIM: {WORDS[letter].decode()} (#5.7.20)")
    if letter.lower() in wanted:
        raise Refused(f"ZDKIM: {WORDS[letter].decode()} (#4.7.20)")
    return b"DKIM-Status: " + WORDS[letter] + b"\n"
