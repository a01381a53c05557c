"""control/xferpeers: the nodes that queued mail moves between, a line NAME[:ADDRESS[:PORT]] each (qmail-xferd(8)).

NAME is what the node's certificate is for. ADDRESS is where it listens, an IPv6 one in brackets; without it NAME is.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

PORT = 2209  # beside QMTP's 209
_LINE = re.compile(rb"([a-z0-9._-]{1,253})(?::(\[[0-9a-f:.]+\]|[a-z0-9._-]*)(?::(\d{1,5}))?)?")


@dataclass(frozen=True, slots=True)
class TransferPeer:
    """One node."""

    name: bytes
    address: bytes
    port: int


def parse_peers(lines: Iterable[bytes]) -> tuple[TransferPeer, ...]:
    """The nodes in the lines of the file, those that can be read."""
    found = []
    for line in lines:
        match = _LINE.fullmatch(line.lower())
        port = int(match[3] or PORT) if match is not None else 0
        if match is not None and 0 < port < 65536:
            found.append(TransferPeer(match[1], (match[2] or match[1]).strip(b"[]"), port))
    return tuple(found)
