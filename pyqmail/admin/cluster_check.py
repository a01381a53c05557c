"""What would keep several machines from working together: qmail-showctl --check."""

from collections.abc import Iterator

from pyqmail.admin.check_one_file import show_value
from pyqmail.control import Control
from pyqmail.policy.transfer_peers import parse_peers


def cluster_troubles(home: str, control: Control) -> Iterator[str]:
    """Proxies and nodes that are none, and a control/shadow by which no copy is made. Raises ControlUnreadable."""
    if proxies := control.lines("proxyhosts"):
        from pyqmail.tcp.proxy import parse_hosts  # what few trees have

        for line in parse_hosts(proxies).faults:
            yield f"control/proxyhosts: {show_value(line)}: no address and no network: nobody is believed for it"
    for line in control.lines("xferpeers") or ():
        if not parse_peers([line]):
            yield f"control/xferpeers: {show_value(line)}: no NAME, NAME:ADDRESS or NAME:ADDRESS:PORT: no node"
    if control.lines("shadow"):
        yield from _shadow(home)


def _shadow(home: str) -> Iterator[str]:
    from pyqmail.shadow.settings import read_settings

    try:
        read_settings(home)
    except ValueError as error:
        yield f"control/shadow: {error}: qmail-shadowd does not start, and no message has a copy"
    except PermissionError:
        return  # who asks is not root
    except OSError as error:
        yield f"control/shadowpassword: {error.strerror}: qmail-shadowd does not start, and no message has a copy"
