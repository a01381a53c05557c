"""What tcpserver brings into memory for our servers before it forks (warm/served)."""

import os
from collections.abc import Mapping
from importlib import import_module

from pyqmail.control import Control, home_of
from pyqmail.system.alert_clock import AlertClock
from pyqmail.system.process import prepare_titles
from pyqmail.warm.served import Main, Plain, Served

# What our servers import only when they need it; a worker finds everything in memory, since it imports nothing.
NEEDED = (
    "fcntl", "traceback", "pyqmail.envelope", "pyqmail.formats.cdb", "pyqmail.intake.child", "pyqmail.intake.pipes",
    "pyqmail.policy.interfaces", "pyqmail.system.files", "pyqmail.system.process",
)  # fmt: skip


FOR_AUTH = ("pyqmail.login.client", "pyqmail.protocol.sasl")  # with qmail-authd, and any mechanism


def server(main: Main) -> Served:
    """The server ``main``, with what it needs; what all connections share is made here."""
    AlertClock.inherited = AlertClock()
    prepare_titles()
    for name in NEEDED:
        import_module(name)
    return Plain(main)


def checking_server(main: Main, environ: Mapping[bytes, bytes]) -> Served:
    """The same of one that asks the checks, with those that sessions will have."""
    from pyqmail.incoming.checks import CHECKS, VARIABLES, wanted

    names = Control(home_of(environ)).names()
    wanted(CHECKS, names, VARIABLES.intersection(environ))
    if names is not None and "logformat" in names:
        import_module("pyqmail.log.json_lines")
    if b"SMTPAUTH" in environ:
        for name in FOR_AUTH:
            import_module(name)
    return server(main)


def share_tls(environ: Mapping[bytes, bytes]) -> None:
    """Make ssl, and what OpenSSL's handshakes use, the memory of all workers; only where there is a certificate.

    It is called once the first identity has been dropped.
    """
    if os.path.lexists(home_of(environ) + "/control/servercert.pem"):
        import_module("pyqmail.tcp.certificates").rehearse()
