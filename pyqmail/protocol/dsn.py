"""The parameters of the DSN extension: RET and ENVID of MAIL, NOTIFY and ORCPT of RCPT (RFC 3461 section 4)."""

from pyqmail.formats.facts import parse_notify
from pyqmail.formats.xtext import is_xtext

ENVID_MAX = 100  # characters (RFC 3461 section 4.4)
ORCPT_MAX = 500  # characters (RFC 3461 section 4.2)
OF_MAIL = (b"RET", b"ENVID")
OF_RCPT = (b"NOTIFY", b"ORCPT")
_TYPES = (b"rfc822", b"utf-8", b"x400", b"unknown")


class WrongParameter(Exception):
    """A parameter that is repeated, or has no such value."""


def values(parameters: bytes, names: tuple[bytes, ...]) -> dict[bytes, bytes]:
    """Those of ``names`` in ``parameters``, words KEY=VALUE. Raises WrongParameter for one that comes twice."""
    found: dict[bytes, bytes] = {}
    for word in parameters.split(b" "):  # a CR or a tab is no end of a word, but wrong in it
        key, _, value = word.partition(b"=")
        key = key.upper()
        if key in names:
            if key in found:
                raise WrongParameter
            found[key] = value
    return found


def parse_mail(parameters: bytes) -> tuple[bytes, bytes]:
    """RET in upper case and ENVID, each empty where it is not there. Raises WrongParameter."""
    found = values(parameters, OF_MAIL)
    ret, envid = found.get(b"RET", b"").upper(), found.get(b"ENVID", b"")
    if b"RET" in found and ret not in (b"FULL", b"HDRS"):
        raise WrongParameter
    if b"ENVID" in found and not (0 < len(envid) <= ENVID_MAX and is_xtext(envid)):
        raise WrongParameter
    return ret, envid


def parse_rcpt(parameters: bytes) -> tuple[frozenset[bytes], bytes]:
    """The keywords of NOTIFY, and ORCPT, each empty where it is not there. Raises WrongParameter."""
    found = values(parameters, OF_RCPT)
    notify = parse_notify(found[b"NOTIFY"]) if b"NOTIFY" in found else frozenset()
    orcpt = found.get(b"ORCPT", b"")
    if notify is None or b"ORCPT" in found and not _is_typed_address(orcpt):
        raise WrongParameter
    return notify, orcpt


def _is_typed_address(orcpt: bytes) -> bool:
    """Whether it is a known type, ``;`` and xtext, in utf-8 with any characters above ASCII (RFC 6533 section 3)."""
    kind, _, address = orcpt.partition(b";")
    if not address or len(orcpt) > ORCPT_MAX or kind.lower() not in _TYPES:
        return False
    if kind.lower() == b"utf-8" and not address.isascii():
        try:
            address = address.decode().encode("ascii", "ignore")
        except UnicodeDecodeError:
            return False
    return is_xtext(address)
