"""qmail-dkimkey: keys for DKIM, from their making to their end (qmail-dkimkey(8)).

qmail-dkimkey make [-t rsa|ed25519] DOMAIN [SELECTOR]   make keys that wait for their records, and print these
qmail-dkimkey record DOMAIN                             print the record of each key that waits or signs
qmail-dkimkey check DOMAIN                              say whether DNS has them
qmail-dkimkey rotate DOMAIN                             let keys sign whose record DNS has; make new ones if none waits
qmail-dkimkey retire DOMAIN SELECTOR                    let a key sign no more
"""

import os
import sys
from collections.abc import Mapping, Sequence

from pyqmail.admin.signing_keys import KINDS, DomainKeys, NotDone
from pyqmail.control import ControlUnreadable, home_of
from pyqmail.mailauth.key_files import KeyFileUnusable
from pyqmail.mailauth.key_records import check_published, zone_line
from pyqmail.mailauth.keys import BadKey
from pyqmail.mailauth.lookups import CachedLookups, Lookups, TemporaryFailure, look_up_within
from pyqmail.mailauth.signing import SigningKey
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.protocol.host_names import ascii_host, is_name

DONE, NOT_YET, USAGE, TROUBLE = 0, 1, 100, 111
LOOK_UP_S = 20.0  # for all questions together


class Misuse(Exception):
    """The command line is none."""


def say(key: SigningKey, text: str) -> None:
    """One line about ``key``."""
    print(f"{os.fsdecode(key.selector)}._domainkey.{os.fsdecode(key.domain)}: {text}")


def print_records(keys: Sequence[SigningKey]) -> None:
    """What DNS is to have, as lines of a zone file."""
    for key in keys:
        print(zone_line(key).decode("ascii"))


def what_is_wrong(key: SigningKey, lookups: Lookups) -> str:
    """Why nobody could verify with what DNS has; empty if all can."""
    try:
        check_published(key, lookups)
    except BadKey as error:
        return f"DNS has {error}"
    except TemporaryFailure:
        return "DNS does not answer"
    return ""


def run_make(home: str, keys: DomainKeys, words: list[bytes]) -> int:
    """qmail-dkimkey make."""
    kinds: Sequence[str] = KINDS
    if words[:1] == [b"-t"] and len(words) > 1:
        kinds, words = (words[1].decode("ascii", "replace"),), words[2:]
    if len(words) > 1 or kinds[0] not in KINDS or words and (len(kinds) > 1 or not is_name(words[0])):
        raise Misuse
    selector = os.fsdecode(words[0]) if words else ""
    print_records([keys.make(kind, selector) for kind in kinds])
    return DONE


def run_record(home: str, keys: DomainKeys, words: list[bytes]) -> int:
    """qmail-dkimkey record."""
    if words:
        raise Misuse
    print_records([*keys.signing(), *keys.waiting()])
    return DONE


def run_check(home: str, keys: DomainKeys, words: list[bytes]) -> int:
    """qmail-dkimkey check."""
    if words:
        raise Misuse
    lookups, code = CachedLookups(look_up_within(home, LOOK_UP_S)), DONE
    for state, found in (("signs", keys.signing()), ("waits", keys.waiting())):
        for key in found:
            wrong = what_is_wrong(key, lookups)
            say(key, f"{state}, and {wrong or 'DNS has it'}")
            code = NOT_YET if wrong else code
    return code


def run_rotate(home: str, keys: DomainKeys, words: list[bytes]) -> int:
    """qmail-dkimkey rotate."""
    if words:
        raise Misuse
    waiting, code = keys.waiting(), DONE
    if not waiting:
        kinds = {each.algorithm.partition(b"-")[0].decode() for each in keys.signing()}
        print_records([keys.make(kind) for kind in KINDS if kind in kinds or not kinds])
        return NOT_YET
    lookups = CachedLookups(look_up_within(home, LOOK_UP_S))
    for key in waiting:
        if wrong := what_is_wrong(key, lookups):
            say(key, f"waits: {wrong}")
            code = NOT_YET
            continue
        for old in keys.use(key):
            say(old, "signs no more; its record can go in a week")
        say(key, "signs from now on")
    return code


def run_retire(home: str, keys: DomainKeys, words: list[bytes]) -> int:
    """qmail-dkimkey retire."""
    if len(words) != 1:
        raise Misuse
    for key in keys.signing():
        if key.selector == words[0]:
            keys.retire(key)
            say(key, "signs no more; its record can go in a week")
            return DONE
    raise NotDone(f"no key {os.fsdecode(words[0])} signs")


def run(home: str, argv: Sequence[bytes]) -> int:
    """One command. Raises Misuse, NotDone, KeyFileUnusable, AccountMissing, ControlUnreadable and OSError."""
    commands = {
        b"make": run_make, b"record": run_record, b"check": run_check, b"rotate": run_rotate, b"retire": run_retire,
    }  # fmt: skip
    words = list(argv[2:])
    options = [words.pop(0), words.pop(0)] if argv[1:2] == [b"make"] and words[:1] == [b"-t"] and len(words) > 1 else []
    domain = ascii_host(words.pop(0).lower()).removesuffix(b".") if words else b""
    if argv[1] not in commands or not is_name(domain):
        raise Misuse
    return commands[argv[1]](home, DomainKeys(home, domain, read_accounts(home)), options + words)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 1 where DNS has not all of it yet; 100 for a bad call; 111 where nothing was done."""
    try:
        return run(home_of(environ), argv)
    except (Misuse, IndexError):
        print((__doc__ or "").partition("\n\n")[2].rstrip(), file=sys.stderr)
        return USAGE
    except KeyFileUnusable as error:
        print(f"qmail-dkimkey: control/domainkeys/{error.place}: {error.why}", file=sys.stderr)
    except (NotDone, AccountMissing, ControlUnreadable, OSError) as error:
        print(f"qmail-dkimkey: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
    return TROUBLE
