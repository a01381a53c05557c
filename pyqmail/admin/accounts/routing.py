"""The domains of accounts in control/rcpthosts and control/virtualdomains, beside the admin's own lines.

A line is ours if the last sync had its domain. qmail-send hears HUP where virtualdomains has changed.
"""

import os
import signal

from pyqmail.admin.virtual_domains import accepted_now, read_file, replace_file, with_line, without_line
from pyqmail.send.control_socket import connect
from pyqmail.spool.layout import Layout
from pyqmail.system.peer import peer_credentials

Domains = frozenset[bytes]


def set_domains(home: str, domains: Domains, before: Domains) -> None:
    """Let mail for ``domains`` in, and no more for those of ``before`` that have gone. Raises OSError.

    What goes is first refused and then routed no more; what comes is first routed and then accepted.
    """
    gone = before - domains
    path = f"{home}/control/rcpthosts"
    if gone:
        _write(path, without_line(read_file(path) or b"", lambda line: line.lower() in gone))
    if _route(f"{home}/control/virtualdomains", domains, gone):
        hang_up(home)
    accepted = accepted_now(home)
    if with_lines(accepted, domains) != accepted:
        _write(path, with_lines(accepted, domains))


def _route(path: str, domains: Domains, gone: Domains) -> bool:
    """Have a line for each of ``domains``; whether there was anything to change."""
    before = read_file(path) or b""
    wanted = {_line(domain) for domain in domains}
    unwanted = {_line(domain) for domain in gone}
    _write(path, with_lines(without_line(before, lambda line: line in unwanted), wanted))
    return (read_file(path) or b"") != before


def _line(domain: bytes) -> bytes:
    return b"%b:%b" % (domain, domain)


def with_lines(data: bytes, lines: Domains | set[bytes]) -> bytes:
    """``data`` with those of ``lines`` at its end that it has not."""
    missing = lines.difference(data.split(b"\n"))
    if not missing:
        return data
    return with_line(data, b"\n".join(sorted(missing)))


def taken(home: str, before: Domains) -> Domains:
    """The domains of control/virtualdomains that are somebody else's: the admin's, or qmail-vuser's. Raises OSError."""
    lines = (read_file(f"{home}/control/virtualdomains") or b"").lower().split(b"\n")
    ours = {_line(domain) for domain in before}
    return frozenset(line.partition(b":")[0] for line in lines if b":" in line and line not in ours)


def _write(path: str, data: bytes) -> None:
    if (read_file(path) or b"") != data:
        replace_file(path, data)


def hang_up(home: str) -> None:
    """Have a running qmail-send read its control files again: the process behind run/send/control."""
    try:
        with connect(Layout(home, 1).send_socket) as sock:
            pid = peer_credentials(sock)[0]
        os.kill(pid, signal.SIGHUP)
    except OSError:
        return  # none runs: it reads them when it starts
