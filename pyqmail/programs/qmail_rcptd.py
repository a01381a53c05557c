"""qmail-rcptd: tells qmail-smtpd which local recipients are certainly nobody's (qmail-rcptd(8)).

Started by qmail-start with the maps that qmail-send has in force coming on descriptor 0; gone when qmail-send is. It
binds its socket as root and then is qmailp for good, who may look names up and nothing else. A few workers answer one
question after another, so that a slow directory server holds up few; with new maps come new workers.
"""

import os
import signal
import socket
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.formats.netstring import NetstringError, scan_length
from pyqmail.local.recipient_workers import RecipientWorkers
from pyqmail.local.srs_addresses import SrsAddresses
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts
from pyqmail.policy.routing_wire import parse_routing
from pyqmail.protocol.recipients import SOCKET
from pyqmail.system import files
from pyqmail.system.process import become, ignore_signals, reset_signals, set_title

RECORD_MAX = 256 * 1048576  # of maps; more is no record of ours


def read_record() -> bytes | None:
    """The next netstring on descriptor 0, None at the end or for anything else."""
    length, colon = 0, None
    try:
        while colon is None:
            digit = os.read(0, 1)
            length, colon = scan_length(length, digit)
            if not digit or length > RECORD_MAX:
                return None
    except (NetstringError, OSError):
        return None
    data = bytearray()
    while len(data) <= length:
        piece = os.read(0, min(1048576, length + 1 - len(data)))
        if not piece:
            return None
        data += piece
    return bytes(data[:-1]) if data.endswith(b",") else None


def bind(home: str, accounts: Accounts) -> socket.socket:
    """The socket under its well-known name, for members of nofiles: qmaild and others of the system's own.

    Who may not connect cannot hand over descriptors either, which the kernel would close in here. Raises OSError.
    """
    files.unlink_if_present(home + SOCKET)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if not accounts.single_user:
        os.setegid(accounts.gid_nofiles)  # not chown: the directory is another user's
    before = os.umask(0o177 if accounts.single_user else 0o117)
    try:
        sock.bind(home + SOCKET)
    finally:
        os.umask(before)
    return sock


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until descriptor 0 ends; 0 then, 111 when it cannot start. Nobody misses it: all are accepted then."""
    reset_signals()
    ignore_signals(signal.SIGHUP)
    home = home_of(environ)
    set_title("qmail-rcptd")
    record = read_record()  # a second qmail-send, which ends for want of the lock, never tells us anything
    if record is None:
        return 0
    try:
        accounts = read_accounts(home)
        srs = SrsAddresses(home)  # as root: the secrets are not qmailp's to read
        os.chdir("/")
        sock = bind(home, accounts)
        if not accounts.single_user:
            become(accounts.uid_passwd, accounts.gid_nofiles, [accounts.gid_nofiles])
    except (OSError, AccountMissing, ControlUnreadable):
        return 111
    return serve(RecipientWorkers(home, accounts, sock, srs), record)


def serve(workers: RecipientWorkers, record: bytes | None) -> int:
    """New workers for each record, until the records end."""
    try:
        while record is not None:
            workers.renew(parse_routing(record))
            while 0 not in (ready := workers.wait()):
                for descriptor in ready:
                    workers.collect(descriptor)
                if workers.outdated:
                    return 0  # another is made
                workers.tend()
            record = read_record()
        return 0
    except (NetstringError, ValueError, OSError):
        return 111
    finally:
        workers.end()
