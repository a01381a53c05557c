"""What would keep SRS from working: qmail-showctl --check."""

import os
from collections.abc import Iterator

from pyqmail.admin.check_one_file import show_value
from pyqmail.control import Control, ControlUnreadable
from pyqmail.mailauth.srs import Srs
from pyqmail.mailauth.srs_controls import read_srs
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.policy.classify import classify
from pyqmail.policy.relaying import Relaying
from pyqmail.policy.routing import read_routing


def srs_troubles(home: str, control: Control) -> Iterator[str]:
    """Secrets that cannot be used, and a domain whose mail does not come here. Raises ControlUnreadable."""
    try:
        srs = read_srs(control)
    except ControlUnreadable as error:
        yield f"{error}: forwards of strangers' mail wait"
        return
    if srs is not None:
        yield from _owner(home, control)
        yield from _way_back(control, srs)


def _owner(home: str, control: Control) -> Iterator[str]:
    try:
        alias = read_accounts(home).uid_alias
        owner = os.stat(control.directory + "/srs_secrets").st_uid
    except (AccountMissing, OSError):
        return  # said already
    if owner != alias:
        yield "control/srs_secrets: is not alias's: bounces of forwarded mail wait, since srsfilter cannot read it"


def _way_back(control: Control, srs: Srs) -> Iterator[str]:
    address = b"SRS0@" + srs.domain
    shown = f"control/srs_domain: {show_value(srs.domain)}"
    if classify(address, read_routing(control, control.me()))[0] != "local":
        yield f"{shown} is in neither virtualdomains nor locals: bounces of forwarded mail go elsewhere"
    relaying = Relaying(control)
    if not relaying.accepts(address):
        yield f"{shown} is not in rcpthosts: bounces of forwarded mail are refused"
    relaying.close()
