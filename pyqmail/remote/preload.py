"""What qmail-rspawn has in memory before it forks a worker, which would need a copy of its own otherwise."""

from importlib import import_module

from pyqmail.control import Control

TLS = "pyqmail.remote.tls_client"  # nearly every server offers it
NEEDED = {"remotelimits": "pyqmail.remote.limiter", "domainkeys": "pyqmail.remote.signatures"}  # where that is there


def preload(home: str) -> None:
    """Import what deliveries by these control files need. Never raises: qmail-remote will say what is wrong."""
    control = Control(home)
    try:
        if control.integer("remoteehlo", 1):
            import_module(TLS)
        for name, module in NEEDED.items():
            if control.exists(name):
                import_module(module)
    except Exception:  # a half-finished upgrade, a control file
        return
