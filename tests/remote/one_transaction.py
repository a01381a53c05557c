"""What qmail-remote says of a message with facts to a server that accepts everything, without a connection."""

from collections.abc import Sequence
from pathlib import Path

from pyqmail.formats.facts import Facts, format_facts
from pyqmail.protocol.smtp_extensions import parse_extensions
from pyqmail.protocol.smtp_replies import Reply
from pyqmail.protocol.smtp_transaction import Send, Transaction
from pyqmail.remote.extras import Extras
from pyqmail.remote.sender import ascii_domain
from tests.scripted_peers import remote_home


def one_transaction(
    folder: Path,
    facts: Facts,
    sender: bytes,
    recipients: Sequence[bytes],
    offers: Sequence[bytes],
    *,
    header_is_ascii: bool = True,
) -> tuple[list[bytes], bytes]:
    """The commands up to the message, and the reports if it comes to none. ``offers``: lines of the answer to EHLO."""
    named = [ascii_domain(each) for each in (sender, *recipients)]
    home = remote_home(folder)
    extras = Extras(str(home), format_facts(facts, sender), ascii_domain, named, lambda: header_is_ascii)
    offered = parse_extensions(b"".join(b"250-%b\n" % line for line in (b"peer", *offers)))
    transaction = Transaction(b"peer", named[0], named[1:], offered=offered, extras=extras)
    run, commands = transaction.run(), []
    try:
        step = next(run)
        while isinstance(step, Send):
            commands.append(step.line.removesuffix(b"\r\n"))
            step = run.send(Reply(354 if step.line == b"DATA\r\n" else 250, b"ok\n"))
    except StopIteration as end:
        return commands, b"".join([*transaction.reports, end.value])
    run.close()
    return commands, b""
