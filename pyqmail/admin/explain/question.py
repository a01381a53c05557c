"""The whole way of a message, from the client or from the queue to the delivery (qmail-explain(8))."""

import ipaddress
from collections.abc import Sequence

from pyqmail.admin.explain.local import explain_local
from pyqmail.admin.explain.remote import explain_remote
from pyqmail.admin.explain.session import explain_session
from pyqmail.admin.explain.verdict import Form, say
from pyqmail.admin.supervision import missing
from pyqmail.formats.printable import visible
from pyqmail.policy.classify import classify, domain_keys
from pyqmail.send.controls import read_controls

RULES = b"/etc/tcp.smtp.cdb"


class Question:
    """The command line."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self.ip: bytes | None = None
        self.sender = b""
        self.rules = RULES
        self.helo = b""
        self.mail_from: bytes | None = None  # the question is who sent it, and not what becomes of an address
        self.message: bytes | None = None  # the path of its text
        addresses = []
        rest = iter(words)
        for word in rest:
            if word == b"--json":
                Form.as_json = True
            elif word in (b"--from", b"--sender", b"--rules", b"--helo", b"--mail-from", b"--message"):
                value = next(rest, None)
                if value is None:
                    raise ValueError
                if word == b"--from":
                    self.ip = str(ipaddress.ip_address(value.decode("ascii"))).encode()
                else:
                    setattr(self, word[2:].decode().replace("-", "_"), value)
            elif word.startswith(b"--"):
                raise ValueError
            else:
                addresses.append(word)
        if self.mail_from is not None and not addresses and self.ip is not None:
            return
        if len(addresses) != 1 or not addresses[0] or self.mail_from is not None or self.message is not None:
            raise ValueError
        self.address = addresses[0]


def explain(home: str, question: Question) -> None:
    """The whole way. Always raises: Verdict, ControlUnreadable, AccountMissing or OSError."""
    for helper in missing(home):
        say(helper.name.decode(), f"does not run: {helper.loss}")
    recipient = (
        question.address
        if question.ip is None
        else explain_session(home, question.address, question.sender, question.rules, question.ip, question.helo)
    )
    channel, address = explain_routing(home, recipient)
    say("channel", f"{channel}, as {visible(address)}")
    if channel == "local":
        explain_local(home, address, question.sender)
    explain_remote(home, address)


def explain_routing(home: str, recipient: bytes) -> tuple[str, bytes]:
    """The channel that qmail-send chooses, and the address as that channel gets it."""
    routing = read_controls(home).routing
    channel, address = classify(recipient, routing)
    domain = address.rpartition(b"@")[2] if channel == "remote" else recipient.rpartition(b"@")[2]
    if b"@" not in recipient:
        say("envnoathost", f"no domain: {visible(routing.default_host)} is presumed")
        recipient += b"@" + routing.default_host
        domain = recipient.rpartition(b"@")[2]
    if channel == "local" and address.rpartition(b"@")[2].lower() in routing.locals:
        if address != recipient:
            say("percenthack", f"makes it {visible(address)}")
        say("locals", f"lists {visible(address.rpartition(b'@')[2])}")
        return channel, address
    say("locals", f"does not list {visible(domain)}")
    for key in (recipient.lower(), *domain_keys(domain.lower())):
        prepend = routing.virtual.get(key)
        if prepend is not None:
            what = f"prepends {visible(prepend)}-" if prepend else "makes an exception: not virtual"
            say("virtualdomains", f"the line for {visible(key)!r} {what}")
            break
    else:
        say("virtualdomains", "has no line for it")
    return channel, address
