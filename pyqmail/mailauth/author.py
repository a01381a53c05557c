"""Who a message says it is from: exactly one From field with exactly one address, or nobody (RFC 5322, RFC 9989
section 5.3.1).
"""

import re
from collections.abc import Sequence

from pyqmail.formats.address_list import read_list
from pyqmail.protocol.host_names import ascii_host, is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.mailauth.canonical import Field

_AT = re.compile(rb"@[^\s<>,;:()\"]*")
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ADDRESS = rb"(%b(?:\.%b)*@[A-Za-z0-9_.-]+)" % (_ATOM, _ATOM)
PLAIN_MAX = 1000  # bytes; of a long field the expression would keep each word that it may have to give back
PLAIN = re.compile(
    rb"[ \t]*(?:%b|(?:\"[^\"\\\r\n]*\"|%b(?:[ \t]+%b)*)?[ \t]*<%b>)[ \t]*" % (_ADDRESS, _ATOM, _ATOM, _ADDRESS)
)


class BadAuthor(Exception):
    """The message has no From, several, or one that names nobody or many; the text says which."""


def author_domain(fields: "Sequence[Field]") -> bytes:
    """The domain of the author, in lower case with A-labels. Raises BadAuthor."""
    return domain_of_author([field.body.replace(b"\n", b" ") for field in fields if field.name == b"from"])


def domain_of_author(bodies: Sequence[bytes]) -> bytes:
    """As ``author_domain``, from the unfolded bodies of all From fields. Raises BadAuthor."""
    if len(bodies) != 1:
        raise BadAuthor("the message has no From field" if not bodies else "the message has several From fields")
    address = _address_in(bodies[0])
    domain = _domain_of(address)
    if b"@" not in address or not is_name(domain):
        raise BadAuthor("the From field has not exactly one address with a domain")
    return domain


def _address_in(text: bytes) -> bytes:
    """The one address of a list; empty where there are others, or a doubt."""
    plain = PLAIN.fullmatch(text) if len(text) <= PLAIN_MAX else None
    if plain is not None:  # ``ann@host`` or ``Ann Lee <ann@host>``, as nearly all have it: read in a tenth of the time
        return plain[1] or plain[2]
    reading = read_list(text)
    addresses = [address.text for address in reading.addresses]
    return addresses[0] if len(addresses) == 1 and reading.sure else _in_brackets(text)


def _in_brackets(text: bytes) -> bytes:
    """The one address in angle brackets at the end of a list with a faulty name before it; empty where a reader could
    find another domain in it.

    Many programs write names without quotes: with 8-bit letters, a comma, or the address once more.
    """
    name, bracket, rest = text.partition(b"<")
    address, end, after = rest.partition(b">")
    if not bracket or not end or after.strip(b" \t") or b"<" in rest:
        return b""
    domain = _domain_of(address)
    return address if all(_domain_of(each) == domain for each in _AT.findall(name)) else b""


def _domain_of(address: bytes) -> bytes:
    return ascii_host(address.rpartition(b"@")[2].strip(b" \t").lower()).removesuffix(b".")
