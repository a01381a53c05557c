"""What tcpserver brings into memory for our servers before it drops its identity and forks (warm/served)."""

import os
from collections.abc import Mapping
from importlib import import_module

from pyqmail.control import home_of
from pyqmail.system.alert_clock import AlertClock
from pyqmail.warm.served import Main, Plain, Served

# What our servers import only when they need it; a worker finds everything in memory, since it imports nothing.
NEEDED = (
    "fcntl", "traceback", "setproctitle", "pyqmail.envelope", "pyqmail.formats.cdb", "pyqmail.policy.interfaces",
    "pyqmail.system.files", "pyqmail.system.process",
)  # fmt: skip


def server(main: Main, environ: Mapping[bytes, bytes]) -> Served:
    """The server ``main``, with what it needs; what all connections share is made here."""
    AlertClock.inherited = AlertClock()
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError:
            if name != "setproctitle":
                raise
    if os.path.lexists(home_of(environ) + "/control/servercert.pem"):
        import_module("pyqmail.tcp.certificates").rehearse()  # ssl once for all workers, and only where it is used
    return Plain(main)
