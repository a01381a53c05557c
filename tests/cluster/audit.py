"""What became of each message: how often each recipient has its body, and why somebody has it more than once."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

BY = re.compile(rb"^  by (\S+) with ", re.M)  # in a Received field of qmail-smtpd


@dataclass(slots=True)
class Sent:
    """A message that a client offers until it is accepted. ``unanswered``: how often nobody answered its last dot."""

    body: bytes
    recipients: tuple[str, ...]
    unanswered: int = 0
    accepted: bool = False


@dataclass(slots=True)
class Report:
    """``lost`` and ``unexplained`` have the recipients; ``explained`` how many copies are too many for which reason."""

    deliveries: int = 0
    lost: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    explained: Counter[str] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)  # which accepted how many of the deliveries


def body_key(text: bytes) -> str:
    """The hash of a message's body, whatever its lines end with and its header has."""
    return hashlib.sha256(text.replace(b"\r\n", b"\n").partition(b"\n\n")[2]).hexdigest()


def accepted_by(text: bytes) -> str:
    """The node that took a message in from its client."""
    found = BY.findall(text.replace(b"\r\n", b"\n").partition(b"\n\n")[0])
    return found[-1].decode() if found else ""


def audit(sent: Iterable[Sent], stored: Mapping[str, Iterable[bytes]], lost_nodes: Collection[str]) -> Report:
    """What the mailboxes in ``stored`` have of what was ``sent``. ``lost_nodes`` were killed or cut off meanwhile."""
    report = Report()
    copies: dict[tuple[str, str], list[str]] = {}
    for user, texts in stored.items():
        for text in texts:
            copies.setdefault((user, body_key(text)), []).append(accepted_by(text))
    for message in sent:
        key = body_key(b"\n\n" + message.body)
        for user in message.recipients:
            nodes = copies.get((user, key), [])
            if not nodes:
                if message.accepted:
                    report.lost.append(user)
                continue
            report.deliveries += 1
            report.nodes[nodes[0]] += 1
            more = len(nodes) - 1
            if not more:
                continue
            if message.unanswered:
                report.explained["the client had no answer, and came again"] += more
            elif any(node in lost_nodes for node in nodes):
                report.explained["the node was lost before it had noted the delivery"] += more
            else:
                report.unexplained.append(user)
    return report
