"""What control/ says of SRS (qmail-control(5)): srs_domain switches it on, srs_secrets has the keys."""

import os
import stat

from pyqmail.control import Control, ControlUnreadable
from pyqmail.mailauth.srs import AGE_DAYS, DAYS, HASH_LENGTH, HASH_MAX, SEPARATORS, Srs

FILES = ("srs_domain", "srs_secrets", "srs_maxage", "srs_hashlength", "srs_hashmin", "srs_separator")


def read_srs(control: Control) -> Srs | None:
    """The addresses of control/srs_domain; None without one. Raises ControlUnreadable.

    Secrets that others than their owner can read are none: with them anybody makes addresses that we forward to.
    """
    domain = control.line("srs_domain")
    if not domain:
        return None
    return Srs(
        domain.lower(),
        _secrets(control),
        min(control.integer("srs_maxage", AGE_DAYS), DAYS - 2),
        _letters(control, "srs_hashlength"),
        _letters(control, "srs_hashmin"),
        _separator(control),
    )


def _letters(control: Control, name: str) -> int:
    return min(max(control.integer(name, HASH_LENGTH), HASH_LENGTH), HASH_MAX)


def _separator(control: Control) -> bytes:
    found = control.line("srs_separator") or b"="
    if found not in SEPARATORS:
        raise ControlUnreadable("control/srs_separator: it is none of = - +")
    return found


def _secrets(control: Control) -> tuple[bytes, ...]:
    found = control.lines("srs_secrets")
    if not found:
        raise ControlUnreadable("control/srs_secrets: there is no secret")
    try:
        mode = os.stat(control.directory + "/srs_secrets").st_mode
    except OSError as error:
        raise ControlUnreadable(f"control/srs_secrets: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ControlUnreadable("control/srs_secrets: others than its owner may read it; chmod 0400")
    return found
