"""PEM files with one or more private keys and their certificate chains (RFC 7468), apart into what belongs together.

qmail keeps key and chain in one file, in any order. With several keys (one ECDSA, one RSA) each key and its chain stand
together: either every key comes before its chain, or every key after it.
"""

import re
from collections.abc import Iterator
from enum import Enum

PEM_MAX = 1_048_576  # bytes of a file: a chain has a few thousand
_OLD_LABEL = b"X509 CERTIFICATE"  # what some programs say, and not all understand
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)


class Kind(Enum):
    """What a block of PEM is to us."""

    KEY = "private key"
    CERTIFICATE = "certificate"
    OTHER = "something else"


class PemError(ValueError):
    """The file is not what it should be; the text says why and holds nothing of a key."""


def blocks(data: bytes) -> Iterator[tuple[Kind, bytes]]:
    """The blocks of ``data`` in their order, each with a final LF and without CR."""
    for found in _BLOCK.finditer(data):
        label = found[1]
        if label.endswith(b"PRIVATE KEY"):
            kind = Kind.KEY
        else:
            kind = Kind.CERTIFICATE if label in (b"CERTIFICATE", _OLD_LABEL) else Kind.OTHER
        text = found[0].replace(_OLD_LABEL, b"CERTIFICATE") if label == _OLD_LABEL else found[0]
        yield kind, text.replace(b"\r", b"") + b"\n"


def split_pairs(data: bytes) -> list[bytes]:
    """Each key with its chain as PEM of its own. Raises PemError."""
    useful = [(kind, text) for kind, text in blocks(data) if kind is not Kind.OTHER]
    keys = sum(kind is Kind.KEY for kind, _ in useful)
    if not keys:
        raise PemError("no private key in it")
    if len(useful) == keys:
        raise PemError("no certificate in it")
    if keys == 1:
        return [b"".join(text for _, text in useful)]
    pairs: list[list[tuple[Kind, bytes]]] = []
    key_first = useful[0][0] is Kind.KEY
    for kind, text in useful:
        if not pairs or (kind is Kind.KEY if key_first else pairs[-1][-1][0] is Kind.KEY):
            pairs.append([])
        pairs[-1].append((kind, text))
    if any(len(pair) == 1 or sum(kind is Kind.KEY for kind, _ in pair) != 1 for pair in pairs):
        raise PemError("keys and certificates do not stand in pairs")
    return [b"".join(text for _, text in pair) for pair in pairs]
