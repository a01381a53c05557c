"""qmail-lspawn: delivers locally, each recipient as the account that qmail-users(5) or passwd says (qmail-lspawn(8)).

``qmail-lspawn defaultdelivery``, as root: commands on descriptor 0, reports on 1. Two differences from the original:
qmail-local and qmail-getpw run in warm workers, one kind per uid and gid, while bin/ holds our own; and a program that
cannot be executed defers the message, whatever the reason, because a local fault never bounces mail.
"""

from collections.abc import Mapping, Sequence

from pyqmail.local.channel import LocalChannel
from pyqmail.system.loop import Loop
from pyqmail.warm.spawner import Spawner, begin

DELIVERY_S = 86400.0  # that a whole delivery may take: as long as one to a Maildir


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until descriptor 0 ends; 100 without a default delivery, 111 when it cannot start."""
    if len(argv) < 2:
        return 100
    begun = begin(environ)
    if begun is None:
        return 111
    home, accounts, limit = begun
    loop = Loop()
    channel = LocalChannel(loop, home, accounts, argv[1], environ, limit)
    Spawner(
        loop,
        channel,
        spawn_limit=limit,
        message_owner=accounts.uid_queue,
        delivery_s=DELIVERY_S,
        glance=channel.glance,
    ).run()
    return 0
