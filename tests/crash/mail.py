"""The messages of the crash tests: their bytes follow from a token, so that an audit needs nothing else."""

import hashlib
import re
from dataclasses import dataclass, field

_TOKEN = re.compile(rb"^Token: (\S+)$", re.MULTILINE)
_BOUNDARY = re.compile(rb'^\s.*boundary="(.*)"$', re.MULTILINE)
FAILS = b"fail"  # a local part that begins so is refused for good


def text(token: str) -> bytes:
    """The message of ``token`` as it is submitted: no two tokens have a line of their bodies in common."""
    lines = [hashlib.sha256(f"{token} {number}".encode()).hexdigest().encode() for number in range(6)]
    return b"Token: %b\nSubject: test\n\n%b\nend of %b\n" % (token.encode(), b"\n".join(lines), token.encode())


def token_of(data: bytes) -> str | None:
    """Whose message is in ``data``, which may be a bounce."""
    found = _TOKEN.search(data)
    return found[1].decode() if found else None


def whole(data: bytes) -> bool:
    """Whether ``data`` ends with all of the message whose token it has; in a report its last boundary follows."""
    token, boundary = token_of(data), _BOUNDARY.search(data)
    if boundary is not None:
        end = b"\n--%b--\n" % boundary[1]
        return token is not None and data.endswith(text(token) + end)
    return token is not None and data.endswith(text(token))


@dataclass(slots=True)
class Ledger:
    """What is known of each message: who it is for, whether it was acknowledged, and whom it reached."""

    recipients: dict[str, list[str]] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    reached: list[tuple[str, str]] = field(default_factory=list)  # token and recipient, delivered or in a bounce

    def copy(self) -> "Ledger":
        """The same, to go on from."""
        return Ledger(dict(self.recipients), set(self.acknowledged), list(self.reached))

    def note(self, words: list[str]) -> None:
        """Take one mark: try, ack or done, a token, and recipients."""
        kind, token, *recipients = words
        if kind == "try":
            self.recipients[token] = recipients
        elif kind == "ack":
            self.acknowledged.add(token)
        else:
            self.reached += [(token, recipient) for recipient in recipients]

    def missing(self) -> list[str]:
        """The recipients of acknowledged messages that nothing has reached."""
        reached = set(self.reached)
        return [
            f"{token} never reached {recipient}"
            for token in sorted(self.acknowledged)
            for recipient in self.recipients[token]
            if (token, recipient) not in reached
        ]

    def deliver(self, recipient: str, sender: bytes, data: bytes) -> str | None:
        """Take a delivery; what is wrong with it, if anything is."""
        token = token_of(data)
        if token is None or not whole(data):
            return f"half a message for {recipient}: {data[-200:]!r}"
        named = [name for name in self.recipients.get(token, []) if b"<" + name.encode() + b">:" in data]
        if sender in (b"", b"#@[]") and not all(name.encode().startswith(FAILS) for name in named):
            return f"{named} bounced, though nobody refused them"
        if sender in (b"", b"#@[]") and named:
            self.reached += [(token, name) for name in named]
            return None if recipient == f"sender-{token}@far.example" else f"{recipient} got the bounce of {token}"
        if sender in (b"", b"#@[]"):
            return f"a bounce of {token} that names none of its recipients, for {recipient}"
        self.reached.append((token, recipient))
        return None if recipient in self.recipients.get(token, []) else f"{recipient} got {token}, which is not for it"
