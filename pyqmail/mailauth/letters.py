"""What DKIM finds out, in the letters of the family's DKIMVERIFY, and what a set of letters does about it
(qmail-dkim(8)).

A letter in upper case refuses the message, one in lower case lets it wait.
"""

from collections.abc import Sequence

from pyqmail.mailauth.dkim import Outcome

GOOD, PARTLY_GOOD, UNSIGNED_ALLOWED, BODY_TOO_LONG, STRANGERS, FAILED = b"A", b"C", b"D", b"E", b"F", b"G"
BAD_SYNTAX, BAD, BAD_IN_TEST, UNSIGNED, NO_ANSWER = b"H", b"I", b"J", b"S", b"P"
# How the reason of an outcome begins, and its letter; the first that fits counts.
_REASONS = (
    ("expired", b"K"),
    ("a name is malformed", b"L"),
    ("the key is not for subdomains", b"M"),
    ("key revoked", b"N"),
    ("no key", b"Q"),
    ("key for other hashes", b"V"),
    ("key of another kind", b"V"),
    ("key ", b"R"),
    ("the body has been altered", b"U"),
    ("another version", b"W"),
    ("From is not signed", b"X"),
)
WORDS = {
    GOOD: b"good",
    PARTLY_GOOD: b"good, but not all of the signatures",
    UNSIGNED_ALLOWED: b"not signed, and need not be",
    BODY_TOO_LONG: b"good, but not for all of the body",
    STRANGERS: b"good, but of another domain than that of From",
    FAILED: b"bad, though this domain signs",
    BAD_SYNTAX: b"bad: the signature is malformed",
    BAD: b"bad: the signature does not fit",
    BAD_IN_TEST: b"bad, with a key that is being tested",
    b"K": b"bad: the signature has expired",
    b"L": b"bad: the selector is malformed",
    b"M": b"bad: the key is not for subdomains",
    b"N": b"bad: the key has been revoked",
    NO_ANSWER: b"unknown: no answer about the key",
    b"Q": b"bad: there is no key",
    b"R": b"bad: the key is of no use",
    UNSIGNED: b"not signed",
    b"U": b"bad: the body has been altered",
    b"V": b"bad: the key is for other algorithms",
    b"W": b"bad: another version",
    b"X": b"bad: From is not signed",
}


def letter_of(outcomes: Sequence[Outcome], author: bytes, signers: Sequence[bytes], exempt: Sequence[bytes]) -> bytes:
    """The letter for the signatures of a message whose From has the domain ``author``.

    ``signers`` are domains that sign all their mail, ``exempt`` ones that need not, ``*`` for any.
    """
    if not outcomes:
        if author in signers:
            return FAILED
        return UNSIGNED_ALLOWED if author in exempt or b"*" in exempt else UNSIGNED
    passed = [each for each in outcomes if each.result == b"pass"]
    if not passed:
        letter = min(map(_letter, outcomes), key=lambda each: each not in (NO_ANSWER, BODY_TOO_LONG))
        return FAILED if author in signers and letter not in (NO_ANSWER, BODY_TOO_LONG) else letter
    if not any(author == each.domain or author.endswith(b"." + each.domain) for each in passed):
        return STRANGERS
    return GOOD if len(passed) == len(outcomes) else PARTLY_GOOD


def _letter(outcome: Outcome) -> bytes:
    if outcome.result == b"temperror":
        return NO_ANSWER
    if outcome.result == b"policy" and outcome.reason.endswith("of the body are not signed"):
        return BODY_TOO_LONG
    if outcome.reason.endswith("-bit key"):
        return b"R"
    found = next((letter for start, letter in _REASONS if outcome.reason.startswith(start)), None)
    return found or (BAD if outcome.result == b"fail" else BAD_SYNTAX)
