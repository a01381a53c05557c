"""qmail-queue: message on fd 0, envelope on fd 1, the answer is the exit code (qmail-queue(8)).

Normally a thin client of qmail-queued, which writes the queue as qmailq without any setuid program. The owner of the
queue (qmailq, or the user of a single-user tree) and root write it themselves, unless messages are to be copied too.
"""

import os

from pyqmail.control import home_of
from pyqmail.exits import QueueExit
from pyqmail.intake import client, direct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Exit codes: QueueExit."""
    home = home_of(environ)
    code = direct.prepare(home)
    if code != QueueExit.DONE:
        return code
    facts = environ.get(client.FACTS, b"")
    if client.may_write_queue(home) and not direct.copies_are_made(home):
        return direct.write_queue(home, os.getuid(), facts)
    sock = client.connect(home + "/run/qmail-queued.sock", client.CONNECT_SECONDS)
    if sock is None:
        return QueueExit.CONNECT_REFUSED
    if not client.hand_over(sock, 0, 1, serial=False, facts=facts):
        return QueueExit.CONNECTION_BROKE
    return client.answer_of(sock)[0]
